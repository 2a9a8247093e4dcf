"""The ledger as text that anybody can check, without fedct.

One line of JSON a row, oldest first, keys sorted, no white space, ASCII only. The rule:

1. take ``hash`` out of a line and write the rest in the same spelling: the SHA-256 of that, in hex, is ``hash``;
2. ``prev`` is the ``hash`` of the line before; in the first line it is 64 zeros;
3. ``id`` counts from 1.

An export kept elsewhere shows later that the ledger's past was not rewritten: its lines must still be
the ledger's first rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from client.chain import GENESIS, chain_hash
from client.ledger import Entry
from common.errors import LedgerError
from common.study import canonical_json

_REMEDY = "Ask for a fresh export, and keep this file: one of the two was changed"


def export_text(entries: Sequence[Entry]) -> str:
    """All rows, a line each; "" for none."""
    return "".join(canonical_json({**entry.record(), "hash": entry.hash}) + "\n" for entry in entries)


def read_export(path: Path) -> tuple[str, ...]:
    """The hash of each row of an export. Raises LedgerError naming the first line that breaks the rule."""
    hashes: list[str] = []
    try:
        lines = path.read_bytes().decode("ascii").split("\n")
    except FileNotFoundError:
        raise LedgerError(
            f"export '{path}' does not exist", "Give a file that 'fedct-site ledger export' wrote"
        ) from None
    except UnicodeDecodeError:
        raise LedgerError(f"'{path}' is not an export of a ledger: it is not ASCII text", _REMEDY) from None
    if lines.pop():
        raise LedgerError(f"line {len(lines) + 1} of export '{path}' is cut off", _REMEDY)
    for number, line in enumerate(lines, start=1):
        found = _hash_of(line, number, hashes[-1] if hashes else GENESIS)
        if found is None:
            raise LedgerError(f"line {number} of export '{path}' was edited, removed or moved", _REMEDY)
        hashes.append(found)
    return tuple(hashes)


def check_export(path: Path, entries: Sequence[Entry]) -> int:
    """The number of rows of an export, if they are the first rows of this ledger. Raises LedgerError otherwise."""
    hashes = read_export(path)
    for number, found in enumerate(hashes, start=1):
        if number > len(entries):
            raise LedgerError(
                f"the ledger was rolled back: it has {len(entries)} rows, export '{path}' has {len(hashes)}", _REMEDY
            )
        if found != entries[number - 1].hash:
            raise LedgerError(f"row {number} of the ledger is not line {number} of export '{path}'", _REMEDY)
    return len(hashes)


def _hash_of(line: str, number: int, prev: str) -> str | None:
    """The hash of a line that keeps the rule, else None."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or canonical_json(record) != line:
            return None
    except (ValueError, RecursionError):
        return None
    found = record.pop("hash", None)
    kept = record.get("id") == number and record.get("prev") == prev and chain_hash(record) == found
    return str(found) if kept else None
