"""The three kinds of keys, how they are written, and how people compare them.

* study key: Ed25519; the coordinator signs studies and invitations with it.
* authority and server keys: ECDSA on NIST P-384, for TLS. The authority's is encrypted with a passphrase.
* node key: ECDSA on NIST P-384 in OpenSSH's format, as Flower's node authentication wants it. It is made
  at the site and never leaves it.

What is read is checked to be exactly the kind that is expected: another curve, a comment or a second key is
refused. Nothing here reads a clock or a disk.
"""

from __future__ import annotations

import re
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from common.errors import TrustError, UsageError

SHORTEST_PASSPHRASE = 12
"""Characters; the key derivation is PBKDF2 or scrypt as OpenSSL has it, and can't mend a short one."""
_FINGERPRINT_DIGITS = 32
_MOST_NODE_KEY_CHARACTERS = 400
_PEM = serialization.Encoding.PEM
_PLAIN = serialization.NoEncryption()


def fingerprint(content: bytes) -> str:
    """The first 128 bits of SHA-256 as eight groups of four hex digits, to be read out on a telephone.

    Whoever wants other content with the same fingerprint has to try about 2^128 contents.
    """
    digits = sha256(content).hexdigest()[:_FINGERPRINT_DIGITS]
    return " ".join(digits[start : start + 4] for start in range(0, _FINGERPRINT_DIGITS, 4))


def new_study_key() -> Ed25519PrivateKey:
    """A new key for signing studies and invitations."""
    return Ed25519PrivateKey.generate()


def study_key_bytes(key: Ed25519PrivateKey) -> bytes:
    """PKCS8, PEM, not encrypted: it is needed at every launch."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _PLAIN)


def read_study_key(content: bytes) -> Ed25519PrivateKey:
    """Read ``study_key_bytes``. Raises TrustError if it is another kind of key, or none."""
    key = _private(content, None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TrustError("the study key is not an Ed25519 key", "Restore study.key from its copy")
    return key


def study_public(key: Ed25519PrivateKey) -> str:
    """The public half of a study key, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def read_study_public(text: str) -> Ed25519PublicKey:
    """Read ``study_public``. Raises TrustError unless it is 64 lower-case hex digits."""
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise TrustError("the study key is not 64 hex digits", "Ask the coordinator for a new invitation")
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def new_p384_key() -> ec.EllipticCurvePrivateKey:
    """A new key for an authority, a server or a node."""
    return ec.generate_private_key(ec.SECP384R1())


def locked_key_bytes(key: ec.EllipticCurvePrivateKey, passphrase: str) -> bytes:
    """PKCS8, PEM, encrypted. Raises UsageError if the passphrase is too short."""
    if len(passphrase) < SHORTEST_PASSPHRASE:
        raise UsageError(
            f"the passphrase has {len(passphrase)} characters; expected {SHORTEST_PASSPHRASE} or more",
            "Take a longer one, such as five random words",
        )
    lock = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, lock)


def read_locked_key(content: bytes, passphrase: str) -> ec.EllipticCurvePrivateKey:
    """Read ``locked_key_bytes``. Raises TrustError on a wrong passphrase or another kind of key."""
    key = _private(content, passphrase.encode())
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise TrustError(
            "the authority's key can't be opened", "Check the passphrase, and that ca.key is the right file"
        )
    return key


def plain_key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS8, PEM, not encrypted: a server opens it without a person."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, _PLAIN)


def node_key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A node's private key in OpenSSH's format, as ``flower-supernode`` reads it."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.OpenSSH, _PLAIN)


def read_node_key(content: bytes) -> ec.EllipticCurvePrivateKey:
    """Read ``node_key_bytes``. Raises TrustError if it is another kind of key, or none."""
    try:
        key = serialization.load_ssh_private_key(content, None)
    except (ValueError, TypeError, NotImplementedError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise TrustError("the node key is not an OpenSSH key on NIST P-384", "Join again with a new invitation")
    return key


def node_public(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """The public half of a node key as one line of OpenSSH, without a comment."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def read_node_public(text: str) -> ec.EllipticCurvePublicKey:
    """Read ``node_public``. Raises TrustError unless it is exactly that spelling of a key on NIST P-384."""
    key = None
    if len(text) <= _MOST_NODE_KEY_CHARACTERS and re.fullmatch(r"ecdsa-sha2-nistp384 [A-Za-z0-9+/]+=*", text):
        try:
            key = serialization.load_ssh_public_key(text.encode())
        except (ValueError, NotImplementedError, UnsupportedAlgorithm):  # the second: a compressed point
            key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or node_public(key) != text:
        raise TrustError(
            "the node key is not a public key on NIST P-384 in OpenSSH's spelling", "Ask the site to join again"
        )
    return key


def node_public_pem(text: str) -> bytes:
    """``node_public`` as SubjectPublicKeyInfo in PEM, which is how Flower stores it."""
    return read_node_public(text).public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _private(content: bytes, passphrase: bytes | None) -> object:
    """Whatever private key ``content`` holds; None if it holds none, or doesn't open."""
    try:
        return serialization.load_pem_private_key(content, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
