"""The ledger: what privacy the patients of this site have spent, for life.

One SQLite file, append-only, hash-chained, with its head beside it (``client.chain``). Rows hold
mechanism events; epsilon is derived from them. Row kinds:

- ``reserve``: a charge, durable before the first private step. It is never refunded: a crash, a retry
  or a network failure costs what was reserved.
- ``commit``: the work of a reservation is done. ``release``: its result, or an uncharged exact result
  that the site's policy allows, left the site. ``refuse``: a charge that would have overrun the budget.
  None of these three charges anything, so losing one never under-charges.

Every call opens the file anew, takes SQLite's write lock, checks the whole chain against the head, and
only then reads or appends; two processes therefore can't spend the same budget, and a file replaced
under a running daemon is noticed. A row is committed (write-ahead log, ``synchronous = FULL``) *before*
the head is moved onto it: killed in between, the ledger is one row ahead of its head, which is good, and
the charge stands. Time is noted and never used: what counts is the order of the rows.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from client.chain import EMPTY, GENESIS, Head, Scalar, chain_hash, check_head, read_head, write_head
from common.clock import now
from common.errors import BudgetExceeded, FedctError, LedgerError, StorageError, UsageError, from_os_error
from common.files import fsync_folder
from common.privacy.accounting import epsilon
from common.privacy.events import Event, events_from_json, events_to_json

_BUSY_SECONDS = 120.0  # longer than any charge takes to compute, so that waiting sites queue up
_COLUMNS = ("id", "time", "kind", "cohort", "study", "round", "events", "reservation", "note", "prev", "hash")
_SCHEMA = (
    """CREATE TABLE entry (
  id INTEGER PRIMARY KEY, time TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('reserve', 'commit', 'release', 'refuse')),
  cohort TEXT NOT NULL, study TEXT NOT NULL, round INTEGER NOT NULL, events TEXT NOT NULL,
  reservation INTEGER NOT NULL, note TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL
) STRICT""",
    "CREATE TRIGGER no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    # REPLACE deletes without firing a delete trigger, hence the check of the new row's number.
    """CREATE TRIGGER no_replace BEFORE INSERT ON entry WHEN NEW.id <= (SELECT COALESCE(MAX(id), 0) FROM entry)
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    "CREATE TRIGGER no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
)
_DAMAGED = "Nothing will run until it is put right: restore the ledger and its head from the newest backup"


@dataclass(frozen=True)
class Entry:
    """One row. ``round`` counts from 1; ``reservation`` is the row that this one is about, 0 for none."""

    id: int
    time: str
    kind: str
    cohort: str
    study: str
    round: int
    events: tuple[Event, ...]
    reservation: int
    note: str
    prev: str
    hash: str

    def record(self) -> dict[str, Scalar]:
        """What is hashed: all columns but ``hash``, the events as the JSON text that they are kept in."""
        fields: dict[str, Scalar] = {name: getattr(self, name) for name in _COLUMNS[:-1]}
        return fields | {"events": events_to_json(self.events)}


class _Draft(NamedTuple):
    """What a new row says; number, time and chain are added when it is appended."""

    kind: str
    cohort: str
    study: str
    round: int
    events: Sequence[Event] = ()
    reservation: int = 0
    note: str = ""


class Ledger:
    """The ledger in ``path``; made, mode 0600, when neither it nor its head exists.

    Every method raises LedgerError when the chain, the head or the file is not what it must be, naming
    the first bad row, and StorageError when the disk can't be read or written. Rows that this object found
    good once are compared with what the file holds and not parsed again. Epsilons are per patient, add or
    remove one, by PLD.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = now) -> None:
        self.path = path
        self.head_path = path.with_suffix(".head")
        self._clock = clock
        self._known: tuple[list[tuple[Any, ...]], list[Entry]] = ([], [])  # rows found good, and what they say
        if read_head(self.head_path) is None and not self._exists():
            self._create()
        with self._locked() as database:
            self._adopt_head(self._rows(database))

    def reserve(
        self,
        *,
        cohort: str,
        study_digest: str,
        round_: int,
        events: Sequence[Event],
        max_epsilon: float,
        max_delta: float,
    ) -> int:
        """Charge ``events`` to the cohort and return the row's number, durable on return.

        Raises BudgetExceeded, with nothing charged, if all that any study ever reserved on this cohort
        together with ``events`` costs more than ``max_epsilon`` at ``max_delta``.
        """
        if not events:
            raise UsageError("a reservation without events charges nothing; expected at least one event")
        with self._locked() as database:
            entries = self._checked(database)
            before = charged(entries, cohort)
            total = epsilon([*before, *events], max_delta)
            refusal = None
            if not total <= max_epsilon:
                spent = epsilon(before, max_delta)
                refusal = (
                    f"round {round_} would bring cohort '{cohort}' to epsilon {total:.4g}; the site's policy allows "
                    f"max_epsilon {max_epsilon:g} at delta {max_delta:g}, and {spent:.4g} is spent"
                )
            kind = "refuse" if refusal else "reserve"
            draft = _Draft(kind, cohort, study_digest, round_, events, note=refusal or "")
            row = self._append(database, entries, draft)
        self._move_head()
        if refusal:
            raise BudgetExceeded(
                refusal,
                "Nothing was charged and no patient was touched; agree on fewer rounds or a smaller epsilon, "
                "or have the hospital raise max_epsilon in site.toml",
            )
        return row

    def commit(self, reservation: int) -> int:
        """Note that the work of a reservation is done. Raises LedgerError if it is not an open reservation."""
        return self._mark("commit", reservation, "")

    def release(self, reservation: int, what: str) -> int:
        """Note that ``what`` of a reservation left the site. Raises LedgerError if there is no such reservation."""
        return self._mark("release", reservation, what)

    def release_uncharged(self, *, cohort: str, study_digest: str, round_: int, what: str) -> int:
        """Note that ``what`` left the site outside of any epsilon, as the site's policy permits."""
        with self._locked() as database:
            draft = _Draft("release", cohort, study_digest, round_, note=what)
            row = self._append(database, self._checked(database), draft)
        self._move_head()
        return row

    def spent(self, cohort: str, delta: float) -> float:
        """Epsilon at ``delta`` of all that was ever reserved on the cohort; 0.0 if nothing was."""
        return epsilon(charged(self.entries(), cohort), delta)

    def spent_by_study(self, cohort: str, study_digest: str, delta: float) -> float:
        """Epsilon at ``delta`` of what one study reserved on the cohort, taken alone."""
        return epsilon(charged(self.entries(), cohort, study_digest), delta)

    def forecast(self, cohort: str, events: Sequence[Event], delta: float) -> float:
        """What ``spent`` would be after ``events``; reserves nothing."""
        return epsilon([*charged(self.entries(), cohort), *events], delta)

    def rounds_charged(self, cohort: str, study_digest: str) -> tuple[int, ...]:
        """The round of each reservation of a study on the cohort, in order; a retried round is there twice."""
        return tuple(
            e.round for e in self.entries() if (e.kind, e.cohort, e.study) == ("reserve", cohort, study_digest)
        )

    def entries(self) -> tuple[Entry, ...]:
        """All rows, verified, oldest first."""
        with self._locked() as database:
            return tuple(self._checked(database))

    def verify(self) -> int:
        """Check every row, the chain and the head; return the number of rows."""
        return len(self.entries())

    def _mark(self, kind: str, reservation: int, note: str) -> int:
        with self._locked() as database:
            entries = self._checked(database)
            found = next((e for e in entries if e.id == reservation and e.kind == "reserve"), None)
            if found is None:
                raise LedgerError(f"row {reservation} of '{self.path}' is not a reservation; nothing was noted")
            if kind == "commit" and any(e.kind == kind and e.reservation == reservation for e in entries):
                raise LedgerError(f"reservation {reservation} of '{self.path}' is committed already")
            draft = _Draft(kind, found.cohort, found.study, found.round, reservation=reservation, note=note)
            row = self._append(database, entries, draft)
        self._move_head()
        return row

    def _append(self, database: sqlite3.Connection, entries: Sequence[Entry], draft: _Draft) -> int:
        """Append one row to the chain and commit it; return its number."""
        number = len(entries) + 1
        time = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        prev = entries[-1].hash if entries else GENESIS
        kind, cohort, study, round_, events, reservation, note = draft
        values = (number, time, kind, cohort, study, round_, events_to_json(events), reservation, note, prev)
        digest = chain_hash(dict(zip(_COLUMNS, values, strict=False)))
        database.execute(f"INSERT INTO entry VALUES ({', '.join('?' * len(_COLUMNS))})", (*values, digest))  # noqa: S608 - placeholders only
        database.execute("COMMIT")
        return number

    def _create(self) -> None:
        """Make the file whole under another name, then link it into place: it exists with its tables or not at all."""
        try:
            handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # mode 0600
            os.close(handle)
            try:
                with closing(sqlite3.connect(name, isolation_level=None)) as database:
                    database.execute("PRAGMA synchronous = FULL")
                    database.execute("PRAGMA journal_mode = WAL")
                    for statement in _SCHEMA:
                        database.execute(statement)
                os.link(name, self.path)
            except FileExistsError:
                pass  # another process made it first
            finally:
                for suffix in ("", "-wal", "-shm"):
                    Path(name + suffix).unlink(missing_ok=True)
            fsync_folder(self.path.parent)
        except sqlite3.Error as error:
            raise _from_sqlite(error, self.path) from None
        except OSError as error:
            raise from_os_error(error) from None

    def _exists(self) -> bool:
        try:
            return self.path.exists()
        except OSError as error:  # a folder that may not be searched
            raise from_os_error(error) from None

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        """A connection that holds the write lock; what it has not committed at the end is rolled back."""
        if not self._exists():
            raise LedgerError(f"ledger '{self.path}' is missing though '{self.head_path.name}' exists", _DAMAGED)
        try:
            uri = f"{self.path.resolve().as_uri()}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = FULL")
                database.execute("BEGIN IMMEDIATE")
                yield database
        except sqlite3.Error as error:
            raise _from_sqlite(error, self.path) from None

    def _rows(self, database: sqlite3.Connection) -> list[Entry]:
        """All rows, the chain checked, the head not."""
        schema = database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()
        if [sql for (sql,) in schema] != list(_SCHEMA):
            raise LedgerError(f"the tables or triggers of ledger '{self.path}' were altered", _DAMAGED)
        rows = database.execute(f"SELECT {', '.join(_COLUMNS)} FROM entry ORDER BY id").fetchall()  # noqa: S608 - constants only
        known, entries = self._known
        entries = list(entries) if rows[: len(known)] == known else []
        prev = entries[-1].hash if entries else GENESIS
        for number, row in enumerate(rows[len(entries) :], start=len(entries) + 1):
            record = dict(zip(_COLUMNS[:-1], row, strict=False))
            if row[0] != number or record["prev"] != prev or row[-1] != chain_hash(record):
                raise LedgerError(f"row {number} of ledger '{self.path}' was edited, removed or moved", _DAMAGED)
            try:
                events = events_from_json(record["events"])
            except UsageError as error:
                raise LedgerError(f"row {number} of ledger '{self.path}': {error.message}", _DAMAGED) from None
            prev = row[-1]
            entries.append(Entry(**{**record, "events": events}, hash=prev))
        self._known = (rows, entries)
        return entries

    def _checked(self, database: sqlite3.Connection) -> list[Entry]:
        entries = self._rows(database)
        head = read_head(self.head_path)
        if head is None:
            raise LedgerError(f"'{self.head_path}' is missing, so a ledger rolled back could not be told", _DAMAGED)
        check_head(head, [entry.hash for entry in entries], self.path)
        return entries

    def _adopt_head(self, entries: Sequence[Entry]) -> None:
        """On opening: the first head of an empty ledger, or the step that a crash left out. Needs the lock."""
        if not entries and read_head(self.head_path) is None:
            write_head(self.head_path, EMPTY)
        head = read_head(self.head_path)
        if head is None:
            raise LedgerError(f"'{self.head_path}' is missing, so a ledger rolled back could not be told", _DAMAGED)
        check_head(head, [entry.hash for entry in entries], self.path)
        if head.count < len(entries):
            write_head(self.head_path, Head(len(entries), entries[-1].hash))

    def _move_head(self) -> None:
        """Move the head to the last row; under the lock, so that a slower process never moves it back."""
        with self._locked() as database:
            self._adopt_head(self._rows(database))


def charged(entries: Sequence[Entry], cohort: str, study: str | None = None) -> list[Event]:
    """The events of every reservation on a cohort among ``entries``, of one study or of all."""
    return [
        event
        for entry in entries
        if entry.kind == "reserve" and entry.cohort == cohort and study in (None, entry.study)
        for event in entry.events
    ]


def _from_sqlite(error: sqlite3.Error, path: Path) -> FedctError:
    """The one-line form of an SQLite error: the disk's fault, another process's, or damage."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(f"ledger '{path}' is held by another process ({error})", "Try again when it is done")
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"no space left for ledger '{path}'", "Free some space; nothing was reserved")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StorageError(f"ledger '{path}' can't be read or written ({error})", "Check the disk, its owner and mode")
    return LedgerError(f"ledger '{path}' can't be read ({error})", _DAMAGED)
