"""A hash chain and its head: how the ledger and the audit log notice that their past was changed.

Each record holds the hash of the one before it, so no record can be edited, removed from the middle or
moved without breaking every hash after it. A cut-off tail and an old copy put back are whole chains,
though; against these, a small *head* file beside the log names how many records there were at least,
and the hash of the last of them.

The order of writing is fixed: first the record, durable, then the head. So the head names a prefix of
the chain: a log *ahead* of its head is what a crash between the two leaves, and is good; a log *behind*
its head was rolled back. Nobody but the hospital's own administrator could rewrite both together; that
is what a copy of the head kept elsewhere is for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import LedgerError, from_os_error
from common.files import write_atomic
from common.study import canonical_json

GENESIS = "0" * 64
_REMEDY = "Put back the newest copy of both files; keep the head, without it nobody can know what is missing"

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class Head:
    """At least ``count`` records exist; the last of these has ``hash`` (GENESIS when there is none)."""

    count: int
    hash: str


EMPTY = Head(0, GENESIS)


def chain_hash(record: Mapping[str, Scalar | Mapping[str, Scalar]]) -> str:
    """SHA-256 of the record's canonical JSON, 64 hex digits. The record holds the previous hash itself."""
    return hashlib.sha256(canonical_json(record).encode()).hexdigest()


def read_head(path: Path) -> Head | None:
    """The head in ``path``, or None when there is none. Raises LedgerError if it is not a head."""
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        head = Head(**content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise from_os_error(error) from None
    except (ValueError, TypeError):
        raise LedgerError(f"'{path}' is not a chain head; expected a count and a hash", _REMEDY) from None
    if type(head.count) is not int or head.count < 0 or type(head.hash) is not str:
        raise LedgerError(f"'{path}' is not a chain head; expected a count and a hash", _REMEDY)
    return head


def write_head(path: Path, head: Head) -> None:
    """Replace the head, durably. Raises StorageError when that fails; the records before it stand."""
    try:
        write_atomic(path, canonical_json({"count": head.count, "hash": head.hash}).encode())
    except OSError as error:
        raise from_os_error(error) from None


def check_head(head: Head, hashes: Sequence[str], log: Path) -> None:
    """Raise LedgerError unless ``head`` names a prefix of the chain whose hashes are given in order."""
    if head.count > len(hashes):
        raise LedgerError(
            f"'{log}' was rolled back: it has {len(hashes)} rows, its head knows of {head.count}; "
            f"row {len(hashes) + 1} is the first that is missing",
            _REMEDY,
        )
    if head.hash != (hashes[head.count - 1] if head.count else GENESIS):
        raise LedgerError(f"row {head.count} of '{log}' is not the row that its head knows", _REMEDY)
