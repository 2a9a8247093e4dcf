"""Ledger and audit log as the page reads them: verified at each look, parsed once.

``client.ledger`` and ``client.audit_log`` compare what they found good before and parse what was added; what the pages
ask of the lines is kept here in the same way, so that a look at a long log costs no more than at a short one.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from client.audit_log import AuditEntry, AuditLog, entry_of
from client.budget import site_ledger
from client.ledger import Entry, Ledger
from client.site import Site

DECISIONS = frozenset({"study-approved", "study-refused"})
NOES = frozenset({"not-ready", "refused-or-failed"})


@dataclass
class Notes:
    """What the pages ask of the audit log.

    ``low``: the lines in small letters, to be searched. ``releases``, ``decisions``: positions in the log, oldest
    first. ``rounds``: of a study's digest, its training rounds that were begun. ``noes``: of a study's digest, the
    position of the newest answer by which this site took no part, unless it began a round or was decided on since. ``sent``: bytes of all updates. ``kinds``: how many lines of each kind.
    """

    read: int = 0
    last: bytes = b""
    low: list[bytes] = field(default_factory=list)
    releases: list[int] = field(default_factory=list)
    decisions: list[int] = field(default_factory=list)
    rounds: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    noes: dict[str, int] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, position: int, entry: AuditEntry) -> None:
        """Take note of one line."""
        details = entry.details
        study = str(details.get("study", ""))
        self.kinds[entry.kind] += 1
        if entry.kind == "release":
            self.releases.append(position)
            self.sent += whole_number(details, "update_bytes")
        elif entry.kind == "round":
            self.noes.pop(study, None)
            if details.get("training"):
                self.rounds[study].add(whole_number(details, "round"))
        elif entry.kind in NOES and study:
            self.noes[study] = position
        elif entry.kind in DECISIONS:
            self.noes.pop(study, None)
            self.decisions.append(position)
            self.names[study] = str(details.get("name", ""))


class Books:
    """The two records of one site. Every method raises LedgerError when a record was tampered with."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.audit = AuditLog(site.audit_file)
        self._ledger: Ledger | None = None
        self._notes = Notes()
        self._lock = threading.Lock()

    @property
    def ledger(self) -> Ledger | None:
        """The ledger; None until something is charged."""
        if self._ledger is None:
            self._ledger = site_ledger(self._site)
        return self._ledger

    def entries(self) -> Sequence[Entry]:
        """All rows of the ledger, oldest first."""
        book = self.ledger
        return book.entries() if book else ()

    def log(self) -> tuple[list[bytes], Notes]:
        """The lines of the audit log, oldest first, and what is noted of them."""
        with self._lock:
            lines = self.audit.lines()
            notes = self._notes
            if notes.read and (len(lines) < notes.read or lines[notes.read - 1] != notes.last):
                notes = Notes()  # another log was put in its place; the chain makes equal last lines equal logs
            for position in range(notes.read, len(lines)):
                notes.add(position, entry_of(lines[position]))
                notes.low.append(lines[position].lower())
            notes.read, notes.last = len(lines), lines[-1] if lines else b""
            self._notes = notes
            return lines, notes


def whole_number(details: Mapping[str, object], key: str) -> int:
    """A number of an entry's details; 0 for anything else."""
    value = details.get(key)
    return value if isinstance(value, int) else 0
