"""When this site's node last heard from the coordinator, and what stands in the way since.

The node writes it (``client.supernode``), whoever watches the site reads it: ``fedct-site doctor`` and the health
endpoint. It holds nothing but times, a port and a code::

    SITE/node/contact.json   {"port": 9101, "heard": "2026-...", "problem": "", "since": "2026-..."}
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from common.files import write_atomic

FILE = "contact.json"
FRESH = timedelta(seconds=120)
"""A node asks every 3 s and signs in every 30 s; silence longer than this is no contact."""
_WRITE_EVERY = timedelta(seconds=10)


@dataclass(frozen=True)
class Contact:
    """``port``: of loopback, where the node answers. ``heard``: when the coordinator last accepted a request, UTC ISO
    8601, "" for never. ``problem``: a code, "" for none. ``since``: when that last changed.
    """

    port: int
    heard: str = ""
    problem: str = ""
    since: str = ""

    def silence(self, now: datetime) -> float | None:
        """Seconds since the coordinator accepted a request, at least 0; None for never."""
        return max(0.0, (now - datetime.fromisoformat(self.heard)).total_seconds()) if self.heard else None

    def trouble(self, now: datetime) -> str:
        """Why there is no contact ``now``, as a code; "" if there is.

        A clock set back does not make an old contact a fresh one: one from the future is none.
        """
        if self.heard and not self.problem:
            age = now - datetime.fromisoformat(self.heard)
            return "" if -FRESH < age < FRESH else "contact-lost"
        return self.problem or "no-contact-yet"


def read_contact(folder: Path) -> Contact | None:
    """What the node in ``folder`` noted; None if it never ran or the file can't be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        found = Contact(**content)
        found.trouble(datetime.now(UTC))  # a time that is none
    except (OSError, ValueError, TypeError):
        return None
    return found


class ContactBook:
    """Notes each request's end in ``folder``: at once when it goes another way than the one before, else now and then."""

    def __init__(self, folder: Path, port: int, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._folder, self._clock = folder, clock
        self._contact = Contact(port)
        self._written: datetime | None = None

    def note(self, problem: str) -> None:
        """A request was accepted ("") or failed with a code."""
        now, former = self._clock(), self._contact
        stamp = now.isoformat(timespec="seconds")
        changed = self._written is None or problem != former.problem
        heard = former.heard if problem else stamp
        self._contact = Contact(former.port, heard, problem, stamp if changed else former.since)
        if changed or self._written is None or not timedelta() <= now - self._written < _WRITE_EVERY:
            content = json.dumps(asdict(self._contact)).encode()
            write_atomic(self._folder / FILE, content, mode=shared_mode(self._folder))
            self._written = now


def shared_mode(folder: Path) -> int:
    """The mode of a file that node and runner share: for the group as well, once IT opened the folder to it."""
    return 0o640 if os.stat(folder).st_mode & 0o010 else 0o600


def problem_of(error: Exception) -> str:
    """The code of a request that failed; nothing of the error's text."""
    if isinstance(error, httpx.HTTPStatusError):
        return problem_of_status(error.response.status_code)
    if isinstance(error, httpx.ProxyError):
        return "proxy"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "certificate"
        if isinstance(cause, ssl.SSLError):
            return "tls"
        cause = cause.__cause__ or cause.__context__
    return "unreachable"


def problem_of_status(status: int) -> str:
    """The code of an answer; "" for one that accepts."""
    if status < 400:
        return ""
    return "not-accepted" if status == 401 else f"answer-{status}"
