"""Signed documents: JSON that a person can read and a strict parser accepts.

A document is ``{"body": {...}, "kind": KIND, "signature": HEX}``. What is signed is the kind, a zero byte, and the
canonical JSON of the body, so that a signature for one kind never fits another. Whoever opens a document gets the
body's canonical bytes and the signature, and must check them; there is no way to get one without the other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import TrustError
from common.study import canonical_json, describe

MOST_BYTES = 32 * 1024
NAME = r"^[a-z0-9][a-z0-9._-]{0,62}$"
HEX = r"^[0-9a-f]{64}$"


class Body(BaseModel):
    """Base of all bodies: frozen, no unknown keys, no conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def canonical(self) -> str:
        """The one spelling that is hashed and signed."""
        return canonical_json(self.model_dump(mode="json"))


def printable(text: str) -> str:
    """``text``, for a model's validator: a terminal would obey what is not printable. Raises ValueError."""
    if not text.isprintable():
        raise ValueError("expected printable characters only")
    return text


B = TypeVar("B", bound=Body)


@dataclass(frozen=True)
class Opened:
    """A document that was parsed and not yet checked: ``signed`` bytes and their ``signature``."""

    body: dict[str, Any]
    signed: bytes
    signature: bytes


def signed_bytes(kind: str, body: dict[str, Any]) -> bytes:
    """What a signature of this document covers."""
    return kind.encode() + b"\0" + canonical_json(body).encode()


def write_document(kind: str, body: dict[str, Any], signature: bytes) -> str:
    """The document as text."""
    return json.dumps({"kind": kind, "body": body, "signature": signature.hex()}, indent=2) + "\n"


def open_document(content: bytes, kind: str) -> Opened:
    """Parse a document of this kind. Raises TrustError on anything else; checks no signature."""
    try:
        opened = _parse(content.decode("utf-8"), kind) if len(content) <= MOST_BYTES else None
    except (ValueError, TypeError, RecursionError):
        opened = None
    if opened is None:
        what = kind.replace("-", " ")
        raise TrustError(f"this is not a {what}", "Ask for the file again, and send it unchanged")
    return opened


def _parse(text: str, kind: str) -> Opened | None:
    """The document; None, ValueError, TypeError or RecursionError if it is none."""
    found = json.loads(text, object_pairs_hook=_once, parse_constant=_none, parse_float=_none)
    if not isinstance(found, dict) or set(found) != {"kind", "body", "signature"} or found["kind"] != kind:
        return None
    body = found["body"]
    if not isinstance(body, dict):
        return None
    return Opened(body, signed_bytes(kind, body), bytes.fromhex(found["signature"]))


def parse_body(model: type[B], body: dict[str, Any], what: str) -> B:
    """Validate a body. Raises TrustError naming key, value and what was expected."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise TrustError(describe(error, what), "Both sides need releases of fedct that fit") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ: with two of a kind, two readers could see different documents."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _none(_: str) -> Any:
    raise ValueError
