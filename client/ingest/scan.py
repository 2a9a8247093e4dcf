"""Walk a tree of files and learn what each of them holds, reading only what the index does not know."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from client.ingest.headers import read_sources
from client.ingest.index import Record, ScanIndex, Standing
from client.ingest.pool import Workers
from client.ingest.records import MEMBER, Annotation, Found, Header, Reason, Skip
from client.ingest.sources import archive_members

Item = TypeVar("Item")
_CHUNK = 64  # sources a job, and a commit of the index


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of the tree: path relative to its root, size in bytes, time of change in ns."""

    path: str
    size: int
    mtime_ns: int


def walk(root: Path) -> tuple[list[Entry], list[Skip]]:
    """All files under ``root``, sorted by path. Links are followed; a folder is visited only once."""
    entries: list[Entry] = []
    skips: list[Skip] = []
    visited: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(root / folder))
        except OSError:
            skips.append(Skip(folder, Reason.UNREADABLE))
            continue
        for name in names:
            found = _look_at(root, os.path.join(folder, name))
            if isinstance(found, Entry):
                entries.append(found)
            elif isinstance(found, Skip):
                skips.append(found)
            else:
                pending.append(found)
    return sorted(entries, key=lambda entry: entry.path), sorted(skips, key=lambda skip: skip.path)


def _look_at(root: Path, path: str) -> Entry | Skip | str:
    """A file as ``Entry``, a folder as its path, anything else as ``Skip``."""
    try:
        status = os.stat(root / path)
    except OSError:
        return Skip(path, Reason.NOT_A_FILE if os.path.islink(root / path) else Reason.UNREADABLE)
    if stat.S_ISDIR(status.st_mode):
        return path
    if stat.S_ISREG(status.st_mode):
        return Entry(path, status.st_size, status.st_mtime_ns)
    return Skip(path, Reason.NOT_A_FILE)  # opening a pipe would wait for ever


def fingerprint(entries: list[Entry], extra: bytes) -> str:
    """SHA-256 over path, size and time of change of every file, and over ``extra``; 64 hex digits."""
    digest = hashlib.sha256(extra)
    for entry in entries:
        digest.update(f"\0{entry.size}\0{entry.mtime_ns}\0".encode())
        digest.update(os.fsencode(entry.path))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Changes:
    """Files of the tree against the last scan; members of archives count with their archive."""

    new: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0


@dataclass(frozen=True)
class Scanned:
    """What a tree holds, each list sorted by source. ``files``: rows, which are files and members of archives."""

    headers: list[Header]
    annotations: list[Annotation]
    skips: list[Skip]
    files: int
    changes: Changes


def scan(
    root: Path,
    entries: list[Entry],
    index: ScanIndex,
    pool: Workers,
    progress: Callable[[int, int], None],
) -> Scanned:
    """Read the header of every file in ``entries`` under ``root``, and of every member of an archive.

    What the index knows is taken from it; what was read is given to it chunk by chunk, so that a scan which
    is interrupted goes on where it was. ``progress`` is called with the sources that are done and their total, which
    grows as archives are found.
    """
    return _Scan(root, index, pool, progress, total=len(entries)).run(entries)


@dataclass
class _Scan:
    """One scan under way."""

    root: Path
    index: ScanIndex
    pool: Workers
    progress: Callable[[int, int], None]
    total: int
    done: int = 0
    headers: list[Header] = field(default_factory=list)
    annotations: list[Annotation] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)

    def run(self, entries: list[Entry]) -> Scanned:
        counts = dict.fromkeys(Standing, 0)
        unread: list[Entry] = []
        archives: list[Entry] = []
        for entry in entries:
            standing, record = self.index.look_up(entry.path, entry.size, entry.mtime_ns)
            counts[standing] += 1
            if record is None:
                unread.append(entry)
            elif record.parts:
                if not self._take_known_archive(entry, record):
                    archives.append(entry)
            else:
                self._take(record.found)
        archives += self._read_files(unread)
        self._read_archives(sorted(archives, key=lambda entry: entry.path))
        changes = Changes(
            new=counts[Standing.NEW],
            changed=counts[Standing.CHANGED],
            removed=self.index.forget_unseen(),
            unchanged=counts[Standing.UNCHANGED],
        )
        self.headers.sort(key=lambda header: (header.path, header.frame))
        self.annotations.sort(key=lambda annotation: annotation.path)
        self.skips.sort(key=lambda skip: skip.path)
        return Scanned(self.headers, self.annotations, self.skips, self.done, changes)

    def _take(self, found: list[list[Found]]) -> None:
        """Count the sources of ``found`` as done."""
        for one in found:
            for record in one:
                if isinstance(record, Header):
                    self.headers.append(record)
                elif isinstance(record, Annotation):
                    self.annotations.append(record)
                else:
                    self.skips.append(record)
        self.done += len(found)
        self.progress(self.done, self.total)

    def _take_known_archive(self, entry: Entry, record: Record) -> bool:
        """Take an archive and its members from the index, if it has all of them."""
        parts = [self._look_up_part(entry, number) for number in range(record.parts)]
        known = [part.found for part in parts if part is not None]
        if len(known) < len(parts):
            return False
        self.total += sum(map(len, known))
        for found in (record.found, *known):
            self._take(found)
        return True

    def _look_up_part(self, entry: Entry, number: int) -> Record | None:
        return self.index.look_up(_part_name(entry, number), entry.size, entry.mtime_ns)[1]

    def _read_files(self, entries: list[Entry]) -> list[Entry]:
        """Read files that the index does not know; returns those that are archives."""
        archives: list[Entry] = []
        chunks = list(_chunks(entries))
        jobs = ([entry.path for entry in chunk] for chunk in chunks)
        read = functools.partial(read_sources, self.root)
        for chunk, results in zip(chunks, self.pool.map(read, jobs, len(chunks)), strict=True):
            records = [Record(e.path, e.size, e.mtime_ns, [found]) for e, found in zip(chunk, results, strict=True)]
            files = [record for record in records if not _is_archive(record)]
            archives += [entry for entry, record in zip(chunk, records, strict=True) if _is_archive(record)]
            self.index.put(record for record in files if _is_lasting(record))
            self._take([record.found[0] for record in files])
        return archives

    def _read_archives(self, archives: list[Entry]) -> None:
        """Read the members of ``archives``, but for those that the index knows from an interrupted scan."""
        pending: deque[Record] = deque()  # what the results that follow belong to
        for found in self.pool.map(functools.partial(read_sources, self.root), self._member_jobs(archives, pending)):
            record = dataclasses.replace(pending.popleft(), found=found)
            if _is_lasting(record):
                self.index.put([record])
            self._take(found)

    def _member_jobs(self, archives: list[Entry], pending: deque[Record]) -> Iterator[list[str]]:
        for entry in archives:
            members = archive_members(self.root, entry.path)
            row: Found = members if isinstance(members, Skip) else Skip(entry.path, Reason.ARCHIVE)
            sources = [] if isinstance(members, Skip) else [source for source, _ in members]
            parts = list(_chunks(sources))
            record = Record(entry.path, entry.size, entry.mtime_ns, [[row]], len(parts))
            if _is_lasting(record):
                self.index.put([record])
            self.total += len(sources)
            self._take(record.found)
            for number, part in enumerate(parts):
                known = self._look_up_part(entry, number)
                if known is not None:
                    self._take(known.found)
                    continue
                name = _part_name(entry, number)
                pending.append(Record(name, entry.size, entry.mtime_ns, [], is_part=True))
                yield part


def _chunks(things: list[Item]) -> Iterator[list[Item]]:
    return (things[start : start + _CHUNK] for start in range(0, len(things), _CHUNK))


def _part_name(entry: Entry, number: int) -> str:
    """What names a part of an archive in the index; no source, since no path holds a NUL."""
    return f"{entry.path}{MEMBER}\0{number}"


def _is_archive(record: Record) -> bool:
    return [one.reason for one in record.found[0] if isinstance(one, Skip)] == [Reason.ARCHIVE]


def _is_lasting(record: Record) -> bool:
    """Whether what was found hangs on the file alone, not on its mode or on the decoders that are installed."""
    passing = (Reason.UNREADABLE, Reason.UNSUPPORTED_SYNTAX)
    return not any(isinstance(one, Skip) and one.reason in passing for found in record.found for one in found)
