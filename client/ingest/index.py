"""The scan index: what the last scan found in each file, so that the next one reads only what changed.

A SQLite file of the site (mode 0600) whose rows show nothing: the key of a row is the pseudonym of the
source, its content is sealed with the site key, size and time of change included. The index is a cache.
Whatever is wrong with it (damage, another key, another folder, another version of the program) makes it
begin anew, and nothing worse than a full scan follows.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import operator
import os
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from client.ingest.attributes import share
from client.ingest.records import Annotation, Found, Header, Pixels, Reason, Skip
from client.keys import SealBroken, SiteKey
from common.errors import StorageError

FORMAT = 2
_UNSYNCED = "PRAGMA synchronous = OFF;"  # a power cut may damage the index, and then it begins anew
_SCHEMA = """
CREATE TABLE head (content BLOB NOT NULL);
CREATE TABLE found (key BLOB NOT NULL UNIQUE, part INTEGER NOT NULL, content BLOB NOT NULL);
"""
_HEADER_VALUES = operator.attrgetter(*(field.name for field in fields(Header)))
_PIXEL_VALUES = operator.attrgetter(*(field.name for field in fields(Pixels)))
_NUMBER = {field.name: number for number, field in enumerate(fields(Header))}
_TUPLES = [_NUMBER[name] for name in ("position", "orientation", "spacing")]
_COMMON = [  # what many slices have in common
    _NUMBER[name]
    for name in (
        *("patient_id", "study_uid", "series_uid", "frame_of_reference", "orientation", "spacing"),
        *("acquisition", "kernel", "vendor", "syntax"),
    )
]


class Standing(Enum):
    """How a file stands against the last scan."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Record:
    """What was found in one or several sources. ``size`` and ``mtime_ns`` are those of the file that holds them.

    ``parts``: for an archive, the number of further records that hold its members, else 0.
    """

    name: str
    size: int
    mtime_ns: int
    found: list[list[Found]]
    parts: int = 0
    is_part: bool = False


class ScanIndex:
    """The index of the DICOM folder ``root`` at ``path``, sealed with ``key``. Use as a context manager.

    Raises StorageError only if the file can't be written at all.
    """

    def __init__(self, path: Path, key: SiteKey, root: Path) -> None:
        self._path = path
        self._key = key
        about = [FORMAT, importlib.metadata.version("fedct"), importlib.metadata.version("pydicom"), str(root)]
        self._context = json.dumps(about).encode()
        self._seen: set[bytes] = set()
        self._database = self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._database.close()

    def look_up(self, name: str, size: int, mtime_ns: int) -> tuple[Standing, Record | None]:
        """How the file or part ``name`` stands, with its record if it is unchanged."""
        key = self._key.pseudonym("file", name)
        self._seen.add(key)
        try:
            row = self._database.execute("SELECT content FROM found WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error:
            self._begin_anew()
            row = None
        if row is None:
            return Standing.NEW, None
        try:
            values = json.loads(self._key.open(row[0], self._context + key).decode())
        except (SealBroken, TypeError):  # TypeError: damage made it no bytes
            return Standing.NEW, None
        if values[:2] != [size, mtime_ns]:
            return Standing.CHANGED, None
        found = [[_found(item) for item in one] for one in values[3]]
        return Standing.UNCHANGED, Record(name, size, mtime_ns, found, parts=values[2])

    def put(self, records: Iterable[Record]) -> None:
        """Keep ``records``, for good once this returns: a scan that is interrupted goes on from here."""
        rows = []
        for record in records:
            key = self._key.pseudonym("file", record.name)
            self._seen.add(key)
            values = [record.size, record.mtime_ns, record.parts, [[_values(one) for one in f] for f in record.found]]
            content = json.dumps(values, separators=(",", ":")).encode()
            rows.append((key, int(record.is_part), self._key.seal(content, self._context + key)))
        try:
            self._insert(rows)
        except sqlite3.Error:
            self._begin_anew()
            try:
                self._insert(rows)
            except sqlite3.Error as error:
                raise self._not_written(error) from None

    def forget_unseen(self) -> int:
        """Drop what was neither looked up nor put since the index was opened; returns how many files that were."""
        try:
            keys = self._database.execute("SELECT key, part FROM found").fetchall()
            unseen = [(key, part) for key, part in keys if key not in self._seen]
            with self._database:
                self._database.executemany("DELETE FROM found WHERE key = ?", [(key,) for key, _ in unseen])
        except sqlite3.Error:
            self._begin_anew()
            return 0
        return sum(not part for _, part in unseen)

    def _insert(self, rows: list[tuple[bytes, int, bytes]]) -> None:
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO found VALUES (?, ?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        """The database as it is if it is ours and whole, else an empty one."""
        try:
            return self._open_whole() or self._create()
        except (sqlite3.Error, OSError) as error:
            raise self._not_written(error) from None

    def _open_whole(self) -> sqlite3.Connection | None:
        """The database that is there, or None if it is not ours and whole."""
        if not self._path.is_file():
            return None
        os.chmod(self._path, 0o600)
        database = sqlite3.connect(self._path)
        try:
            database.execute(_UNSYNCED)
            (head,) = database.execute("SELECT content FROM head").fetchone()
            self._key.open(head, self._context)
        except (sqlite3.Error, SealBroken, TypeError):  # TypeError: no row, or no bytes in it
            database.close()
            return None
        return database

    def _create(self) -> sqlite3.Connection:
        for name in (self._path, Path(f"{self._path}-journal")):
            name.unlink(missing_ok=True)
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        database = sqlite3.connect(self._path)
        database.executescript(_UNSYNCED + _SCHEMA)
        with database:
            database.execute("INSERT INTO head VALUES (?)", (self._key.seal(b"scan index", self._context),))
        return database

    def _begin_anew(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        try:
            self._database = self._create()
        except (sqlite3.Error, OSError) as error:
            raise self._not_written(error) from None

    def _not_written(self, error: Exception) -> StorageError:
        return StorageError(
            f"scan index '{self._path}' can't be written ({error})", "Check the folder and its free space"
        )


def _values(found: Found) -> list[Any]:
    """A record as plain values, its kind first."""
    if isinstance(found, Header):
        *values, pixels = _HEADER_VALUES(found)
        return ["header", *values, None if pixels is None else _PIXEL_VALUES(pixels)]
    if isinstance(found, Annotation):
        return ["annotation", found.path, found.patient_id, found.kind]
    return ["skip", found.path, found.reason.value, found.detail]


def _found(values: list[Any]) -> Found:
    """The inverse of ``_values``."""
    kind, *rest = values
    if kind == "skip":
        return Skip(rest[0], Reason(rest[1]), share(rest[2]))
    if kind == "annotation":
        return Annotation(*rest)
    for number in _TUPLES:
        rest[number] = tuple(rest[number])
    for number in _COMMON:
        rest[number] = share(rest[number])
    if rest[-1] is not None:
        if rest[-1][-1] is not None:
            rest[-1][-1] = tuple(rest[-1][-1])
        offset, size, mtime_ns, *meaning = rest[-1]
        rest[-1] = Pixels(offset, size, mtime_ns, *map(share, meaning))
    return Header(*rest)
