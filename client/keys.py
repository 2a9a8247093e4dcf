"""The site key: 32 secret bytes that the site makes at its first ingest and keeps.

It lies in ``data.key_file`` of ``site.toml`` (64 hex digits, mode 0600), or in the environment variable
``FEDCT_SITE_KEY``, which wins. From it HKDF (RFC 5869) derives one key for each purpose, so that what
one of them shows says nothing of another:

* pseudonyms: HMAC-SHA256 of kind and identifier, cut to 16 bytes. Without the key they can be neither
  reversed nor guessed from a list of identifiers.
* sealing: AES-256-GCM with a random 96-bit nonce. What is sealed is bound to its ``context``, so a
  record moved to another place does not open.

Losing the key loses the scan index and encrypted cohorts; both can be made anew from the DICOM files.
"""

from __future__ import annotations

import hmac
import os
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from common.errors import SiteError, from_os_error
from common.files import fsync_folder

ENVIRONMENT = "FEDCT_SITE_KEY"
OVERHEAD = 28
"""Bytes that sealing adds: nonce 12, tag 16."""
_LENGTH = 32
_NONCE = 12
_REMEDY = "Expected 64 hex digits, as fedct-site makes them; restore the key from its copy"


class SealBroken(Exception):  # noqa: N818  the caller says which file
    """What was to be opened is not what this key sealed in this context."""


@dataclass(frozen=True)
class SiteKey:
    """Keys derived from the site's secret; ``repr`` shows none of them."""

    _pseudonym: bytes
    _seal: AESGCM

    def __repr__(self) -> str:
        return "SiteKey(...)"

    @classmethod
    def from_secret(cls, secret: bytes) -> Self:
        """Derive from 32 secret bytes."""
        return cls(_derive(secret, b"pseudonym"), AESGCM(_derive(secret, b"seal")))

    def pseudonym(self, kind: str, identifier: str) -> bytes:
        """16 bytes that stand for ``identifier`` (of a patient, a file...) at this site."""
        content = f"{kind}\0{identifier}".encode("utf-8", "surrogatepass")
        return hmac.new(self._pseudonym, content, sha256).digest()[:16]

    def seal(self, content: bytes, context: bytes) -> bytes:
        """``content`` encrypted and authenticated, ``OVERHEAD`` bytes longer."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._seal.encrypt(nonce, content, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """The content. Raises SealBroken if it was altered, or sealed with another key or context."""
        try:
            return self._seal.decrypt(bytes(sealed[:_NONCE]), bytes(sealed[_NONCE:]), context)
        except (InvalidTag, ValueError):
            raise SealBroken from None


def load_or_make_key(path: Path) -> SiteKey:
    """The site's key; made on first use. Raises SiteError if it is damaged or can't be read or written."""
    found = _read(path)
    return SiteKey.from_secret(found if found is not None else _make(path))


def load_key(path: Path) -> SiteKey:
    """The site's key. Raises SiteError if there is none: a new one would not open what is stored."""
    found = _read(path)
    if found is None:
        raise SiteError(f"site key '{path}' does not exist", _REMEDY)
    return SiteKey.from_secret(found)


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), _LENGTH, salt=None, info=b"fedct site key: " + purpose).derive(secret)


def _read(path: Path) -> bytes | None:
    text = os.environ.get(ENVIRONMENT)
    source = f"environment variable {ENVIRONMENT}"
    if text is None:
        source = f"site key '{path}'"
        try:
            text = path.read_text(encoding="ascii")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SiteError(f"{source} can't be read ({error.strerror})", "Check its owner and mode") from None
        except UnicodeDecodeError:
            text = ""
    try:
        secret = bytes.fromhex(text.strip())
    except ValueError:
        secret = b""
    if len(secret) != _LENGTH:
        raise SiteError(f"{source} is not 64 hex digits", _REMEDY)
    return secret


def _make(path: Path) -> bytes:
    """A new secret at ``path``; if another process makes it first, that one."""
    secret = secrets.token_bytes(_LENGTH)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secret.hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, path)  # unlike a rename, fails if it exists: never overwrite a key
        fsync_folder(path.parent)
    except FileExistsError:
        return _read(path) or secret
    except OSError as error:
        raise from_os_error(error) from error
    finally:
        partial.unlink(missing_ok=True)
    return secret
