"""The coordinator's signature under a study: Ed25519 (RFC 8032) over a prefix and the study's digest.

The signature is a line of its own, kept in a file beside the study: ``study.toml`` and ``study.toml.sig``. It covers
the canonical content, so comments and order may change and no value may.
"""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from common.errors import TrustError
from common.pki.keys import read_study_public
from common.study import Study

_PREFIX = b"fedct-study-1\0"
_LINE = re.compile(r"fedct-study-1 ([0-9a-f]{64}) ([0-9a-f]{128})[ \r\n]*")  # mail may change how a line ends
_MOST_BYTES = 1024
_REMEDY = "Ask the coordinator for the study and its signature again, and change neither"


def sign_study(study: Study, key: Ed25519PrivateKey) -> str:
    """One line: format, digest of the study, signature; hex digits."""
    return f"fedct-study-1 {study.digest} {key.sign(_PREFIX + bytes.fromhex(study.digest)).hex()}\n"


def verify_study(study: Study, signature: str, study_key: str) -> None:
    """Raise TrustError unless ``signature`` is that of ``study`` by the owner of ``study_key`` (64 hex digits)."""
    if not signature:
        raise TrustError(
            f"study '{study.name}' has no signature", "Put the coordinator's .sig file beside the study file"
        )
    found = _LINE.fullmatch(signature)
    if found is None:
        raise TrustError("the study's signature is not one line of 'fedct-study-1 DIGEST SIGNATURE'", _REMEDY)
    if found[1] != study.digest:
        raise TrustError(
            f"the signature is for study {found[1][:12]}, and '{study.name}' is {study.digest[:12]}: "
            "the study was changed after it was signed, or the signature is another's",
            _REMEDY,
        )
    try:
        read_study_public(study_key).verify(bytes.fromhex(found[2]), _PREFIX + bytes.fromhex(study.digest))
    except InvalidSignature:
        raise TrustError(
            f"study '{study.name}' is not signed by the coordinator that this site joined", _REMEDY
        ) from None


def signature_file(study_file: Path) -> Path:
    """Where the signature of a study file lies: the same name with ``.sig`` behind it."""
    return study_file.with_name(study_file.name + ".sig")


def read_signature(path: Path) -> str:
    """The content of a signature file; "" if there is none. Whatever it holds is for ``verify_study`` to judge."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        return ""
