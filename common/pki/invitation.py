"""The invitation: what a site needs to know of its coordinator, and a token that works once.

It is signed by the study key that it holds, so any change is noticed, but anybody can make one. That it comes from
the right coordinator follows from the ``fingerprint`` alone, which covers study key and authority: people compare it
by telephone. Whoever makes another invitation with the same token is found again at ``admit``, since the request names
the digest of the invitation that the site saw.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, field_validator

from common.errors import TrustError
from common.pki import keys
from common.pki.address import address_text
from common.pki.certificates import MOST_CERTIFICATE_CHARACTERS, check_authority, read_certificate
from common.pki.documents import (
    HEX,
    NAME,
    Body,
    open_document,
    parse_body,
    printable,
    signed_bytes,
    write_document,
)

KIND = "fedct-invitation"
DAYS = 14
"""How long an invitation can be used."""
_REMEDY = "Ask the coordinator for a new invitation"


class Invitation(Body):
    """``coordinator`` and ``title`` of the site are for people; ``site`` is its name in the study.

    ``token``: 32 random bytes. ``expires``: UTC, to the second.
    """

    version: Literal[1]
    coordinator: str = Field(min_length=1, max_length=200)
    address: str
    authority: str = Field(max_length=MOST_CERTIFICATE_CHARACTERS)
    study_key: str = Field(pattern=HEX)
    site: str = Field(pattern=NAME)
    title: str = Field(min_length=1, max_length=200)
    token: str = Field(pattern=HEX)
    expires: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")

    @field_validator("coordinator", "title")
    @classmethod
    def _printable(cls, text: str) -> str:
        return printable(text)

    @field_validator("address")
    @classmethod
    def _canonical_address(cls, text: str) -> str:
        if address_text(text) != text:
            raise ValueError("expected HOST:PORT in lower case")
        return text

    @field_validator("expires")
    @classmethod
    def _real_time(cls, text: str) -> str:
        read_time(text)
        return text

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical body, 64 hex digits. It tells nothing of the token."""
        return sha256(self.canonical().encode()).hexdigest()

    @property
    def fingerprint(self) -> str:
        """The coordinator's fingerprint, to compare by telephone."""
        return coordinator_fingerprint(self.authority, self.study_key)


def coordinator_fingerprint(authority: str, study_key: str) -> str:
    """Fingerprint over study key (64 hex digits) and the authority's certificate (PEM)."""
    certificate = read_certificate(authority).public_bytes(serialization.Encoding.DER)
    return keys.fingerprint(b"fedct-coordinator\0" + bytes.fromhex(study_key) + certificate)


def token_digest(token: str) -> str:
    """SHA-256 of a token, 64 hex digits: all of it that the coordinator keeps."""
    return sha256(b"fedct-token\0" + bytes.fromhex(token)).hexdigest()


def write_time(moment: datetime) -> str:
    """UTC to the second, ending in Z."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str) -> datetime:
    """Read ``write_time``. Raises ValueError."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


def make_invitation(
    *,
    coordinator: str,
    address: str,
    authority: str,
    study_key: Ed25519PrivateKey,
    site: str,
    title: str,
    now: datetime,
    random: Callable[[int], bytes],
) -> Invitation:
    """An invitation for ``DAYS`` from ``now``; ``random(n)``: n secret bytes. Raises TrustError on a bad value."""
    body = {
        "version": 1,
        "coordinator": coordinator,
        "address": address,
        "authority": authority,
        "study_key": keys.study_public(study_key),
        "site": site,
        "title": title,
        "token": random(32).hex(),
        "expires": write_time(now + timedelta(days=DAYS)),
    }
    return parse_body(Invitation, body, "invitation")


def sign_invitation(invitation: Invitation, study_key: Ed25519PrivateKey) -> str:
    """The invitation as a signed document."""
    body = invitation.model_dump(mode="json")
    return write_document(KIND, body, study_key.sign(signed_bytes(KIND, body)))


def open_invitation(content: bytes, now: datetime) -> Invitation:
    """Read an invitation. Raises TrustError if it was altered, has expired, or names no sound authority.

    In this order: form, signature, expiry, authority. What it doesn't check is who made it: see ``fingerprint``.
    """
    document = open_document(content, KIND)
    invitation = parse_body(Invitation, document.body, "invitation")
    try:
        keys.read_study_public(invitation.study_key).verify(document.signature, document.signed)
    except InvalidSignature:
        raise TrustError("the invitation was altered: its signature does not hold", _REMEDY) from None
    if not now < read_time(invitation.expires):
        raise TrustError(f"the invitation expired at {invitation.expires}", _REMEDY)
    check_authority(read_certificate(invitation.authority), now)
    return invitation
