"""The audit log: every release and every refusal of a site, for a person to read.

JSON lines, append-only, each with the hash of the line before it, and a head file beside
(``client.chain``): an edited, removed, added or cut-off line is found. One file lock keeps one chain
when several processes write. Details are scalars that the site itself chose; they stay at the site.

Whoever reads checks every line, and each round begins with a reading (``client.participation``). Whoever appends checks
the end: the last line, and that it and the head belong together; if they don't, every line. So a round reads the log
once, however long it has become, and nothing is added to an end that was cut off, edited or put back.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from client.chain import EMPTY, GENESIS, Head, Scalar, chain_hash, check_head, read_head, write_head
from common.clock import now
from common.errors import LedgerError, UsageError, from_os_error
from common.files import fsync_folder
from common.study import canonical_json

_DAMAGED = "Keep the file as it is for the enquiry, and restore the newest copy of it and its head"
_BLOCK = 16 << 10  # of the end of the log, at first
_KEYS = {"n", "time", "kind", "details", "prev", "hash"}


@dataclass(frozen=True)
class AuditEntry:
    """One line: its number from 1, UTC time (ISO 8601), kind and details."""

    n: int
    time: str
    kind: str
    details: Mapping[str, Scalar]
    prev: str
    hash: str


@dataclass(frozen=True)
class _Good:
    """Content of the file that was found good, and the hash of each of its lines."""

    content: bytes = b""
    hashes: Sequence[str] = ()


class AuditLog:
    """The audit log in ``path``; made, mode 0600, by the first append.

    Methods raise LedgerError, naming the first bad line, when what they check was tampered with or ends in a part of a
    line, and StorageError when the disk can't be read or written. Bytes that this object found good once are compared
    with what the file holds and not parsed again.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = now) -> None:
        self.path = path
        self.head_path = path.with_suffix(".head")
        self._clock = clock
        self._known = _Good()

    def append(self, kind: str, details: Mapping[str, Scalar]) -> AuditEntry:
        """Add a line, whole and durable on return. Raises UsageError unless details are finite scalars."""
        _check_details(kind, details)
        with self._locked() as file:
            count, last = self._last(file)
            record: dict[str, Any] = {
                "n": count + 1,
                "time": self._clock().astimezone(UTC).isoformat(timespec="milliseconds"),
                "kind": kind,
                "details": dict(details),
                "prev": last,
            }
            record["hash"] = chain_hash(record)
            _write_line(file, canonical_json(record).encode() + b"\n")
            write_head(self.head_path, Head(record["n"], record["hash"]))
        return AuditEntry(**record)

    def read(self) -> tuple[AuditEntry, ...]:
        """All lines, verified, oldest first; none if nothing was ever logged."""
        return tuple(entry_of(line) for line in self.lines())

    def lines(self) -> list[bytes]:
        """All lines as they stand in the file, verified, oldest first: for who looks at few of many."""
        if not self.path.exists() and read_head(self.head_path) is None:
            return []
        with self._locked() as file:
            return self._checked(file).content.split(b"\n")[:-1]

    def verify(self) -> int:
        """Check every line, the chain and the head; return the number of lines."""
        return len(self.lines())

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The log's descriptor under an exclusive lock; makes log and head where neither exists."""
        try:
            # The log is made before its head: a head without a log means that the log was taken away.
            if read_head(self.head_path) is not None and not self.path.exists():
                raise LedgerError(f"audit log '{self.path}' is missing though '{self.head_path.name}' exists", _DAMAGED)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if read_head(self.head_path) is None and os.fstat(file).st_size == 0:
                    fsync_folder(self.path.parent)
                    write_head(self.head_path, EMPTY)
                yield file
            finally:
                os.close(file)
        except OSError as error:
            raise from_os_error(error) from None

    def _last(self, file: int) -> tuple[int, str]:
        """Number and hash of the last entry; all is checked unless it fits the head, which is at most one behind."""
        last, head = _parse(_last_line(file)), read_head(self.head_path)
        if last and head and (head.count, head.hash) in ((last.n, last.hash), (last.n - 1, last.prev)):
            return last.n, last.hash
        hashes = self._checked(file).hashes
        return (len(hashes), hashes[-1]) if hashes else (0, GENESIS)

    def _checked(self, file: int) -> _Good:
        """What the file holds, found good. Only what was added since this object last looked is parsed."""
        with os.fdopen(os.dup(file), "rb") as reader:
            reader.seek(0)
            content = reader.read()
        known = self._known if content.startswith(self._known.content) else _Good()
        *lines, tail = content[len(known.content) :].split(b"\n")
        hashes = list(known.hashes)
        for number, line in enumerate(lines, start=len(hashes) + 1):
            entry = _parse(line)
            prev = hashes[-1] if hashes else GENESIS
            if entry is None or entry.n != number or entry.prev != prev:
                raise LedgerError(f"line {number} of audit log '{self.path}' was edited, removed or moved", _DAMAGED)
            hashes.append(entry.hash)
        if tail:
            raise LedgerError(f"line {len(hashes) + 1} of audit log '{self.path}' is cut off", _DAMAGED)
        head = read_head(self.head_path)
        if head is None:
            raise LedgerError(f"'{self.head_path}' is missing, so a log cut short could not be told", _DAMAGED)
        check_head(head, hashes, self.path)
        self._known = _Good(content, hashes)
        return self._known


def entry_of(line: bytes) -> AuditEntry:
    """The entry of a line of ``AuditLog.lines``."""
    return AuditEntry(**json.loads(line))


def _last_line(file: int) -> bytes:
    """The last line without its end; empty when there is none, or no end to it."""
    size, length, tail = os.fstat(file).st_size, _BLOCK, b""
    while size:
        length = min(length, size)
        tail = os.pread(file, length, size - length)
        if not tail.endswith(b"\n"):
            return b""
        if tail.count(b"\n") > 1 or length == size:
            break
        length *= 2
    return tail[:-1].rpartition(b"\n")[2]


def _parse(line: bytes) -> AuditEntry | None:
    """The entry of a line whose spelling and hash are right, else None."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict) or set(record) != _KEYS or canonical_json(record).encode() != line:
            return None
        digest = chain_hash({key: value for key, value in record.items() if key != "hash"})
    except ValueError:
        return None
    return AuditEntry(**record) if record["hash"] == digest else None


def _write_line(file: int, line: bytes) -> None:
    """Append and fsync; a write that fails half-way (a full disk) is taken back."""
    size = os.fstat(file).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise


def _check_details(kind: str, details: Mapping[str, Scalar]) -> None:
    if not kind:
        raise UsageError(f"audit kind = {kind!r}: expected a name")
    for key, value in details.items():
        if value is not None and not isinstance(value, str | int | float):
            raise UsageError(
                f"audit detail {key} is a {type(value).__name__}; expected text, a number, a boolean or None"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"audit detail {key} = {value!r}: expected a finite number")
