"""Keep services running: start them, start them again when they end, end them all when told.

A service that ends is started again after 1, 2, 4, 8 and then every 10 s; one that ran for a minute counts from
the start again. Flower refuses a node whose predecessor was killed until its lease of 60 s has lapsed, so a
short, bounded wait is what brings it back soonest. Each service has a session of its own, so Ctrl-C reaches the
supervisor alone, and gets SIGTERM when the supervisor dies without a word. Its output is appended to a log of at most
10 MB; five older ones are kept beside it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

LONGEST_WAIT = 10.0
SETTLED_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.2
LOG_BYTES = 10 << 20
LOGS_KEPT = 5
PR_SET_PDEATHSIG = 1

_prctl = ctypes.CDLL(None, use_errno=True).prctl if sys.platform == "linux" else None


@dataclass(frozen=True)
class Service:
    """A process to keep running.

    ``folder``: its working directory. ``log``: where its output is appended. ``meanings``: what to say of an exit
    code that has one reason.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    meanings: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What befell a service; as text, one line for a person.

    ``process``: its id. ``code``: with which it ended. ``meaning``: what that says, if it has one reason.
    ``wait``: seconds until it is started again.
    """

    service: str
    what: Literal["started", "ended", "killed", "stopped"]
    process: int
    code: int | None = None
    meaning: str = ""
    wait: float = 0.0

    def __str__(self) -> str:
        if self.what == "started":
            return f"{self.service} started, process {self.process}"
        if self.what == "ended":
            why = f" ({self.meaning})" if self.meaning else ""
            return f"{self.service} ended with code {self.code}{why}; next start in {self.wait:.0f} s"
        if self.what == "killed":
            return f"{self.service} did not stop within {STOP_SECONDS:.0f} s and is killed"
        return f"{self.service} stopped"


def wait_before(failures: int) -> float:
    """Seconds to wait before a start that follows ``failures`` ends in a row (1 or more)."""
    return float(min(LONGEST_WAIT, 2.0 ** min(failures - 1, 10)))


def supervise(services: Sequence[Service], told_to_stop: threading.Event, note: Callable[[Event], None]) -> None:
    """Run ``services`` until ``told_to_stop``, then end them all, last started first; also on any exception.

    ``note`` is called whenever a service starts or ends. OSError when a program can't be started.
    """
    keepers = [_Keeper(service, note) for service in services]
    try:
        for keeper in keepers:
            keeper.start()
        while not told_to_stop.wait(POLL_SECONDS):
            for keeper in keepers:
                keeper.look()
    finally:
        for keeper in reversed(keepers):
            keeper.stop()


def told_by_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set, for the main thread of a daemon."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    return told


class _Keeper:
    """One service, and when to start it again."""

    def __init__(self, service: Service, note: Callable[[Event], None]) -> None:
        self._service, self._note = service, note
        self._process: subprocess.Popen[bytes] | None = None
        self._failures, self._started, self._due = 0, 0.0, 0.0

    def start(self) -> None:
        service = self._service
        _turn_over(service.log)
        with open(service.log, "ab", opener=_private) as output:
            self._process = subprocess.Popen(
                service.command,
                env=dict(service.environment),
                cwd=service.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of libc, looked up before the fork
            )
        self._started = time.monotonic()
        self._note(Event(service.name, "started", self._process.pid))

    def look(self) -> None:
        """Notice an end, and start again when it is time."""
        now = time.monotonic()
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                _turn_over(self._service.log)
                return
            pid = self._process.pid
            _end_group(pid, signal.SIGKILL)  # what it started must not meet its successor
            self._process = None
            self._failures = 1 if now - self._started >= SETTLED_SECONDS else self._failures + 1
            self._due = now + wait_before(self._failures)
            meaning = self._service.meanings.get(code, "")
            self._note(Event(self._service.name, "ended", pid, code, meaning, self._due - now))
        elif now >= self._due:
            self.start()

    def stop(self) -> None:
        if self._process is None:
            return
        name, pid = self._service.name, self._process.pid
        _end_group(pid, signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._note(Event(name, "killed", pid))
        _end_group(pid, signal.SIGKILL)
        self._note(Event(name, "stopped", pid, self._process.wait()))
        self._process = None


def _end_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _die_with_parent() -> None:
    """Between fork and exec: ask the kernel for SIGTERM when the parent dies, however it dies."""
    if _prctl is not None:
        _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _turn_over(log: Path) -> None:
    """Once the log is 10 MB long, begin it anew and keep the older ones as .1 (the newest) to .5.

    Who writes it has it open, for appending; so it is copied and emptied, and what is written in between is lost.
    """
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size <= LOG_BYTES:
            return
        for number in range(LOGS_KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{log}.{number}", f"{log}.{number + 1}")
        with open(f"{log}.1", "wb", opener=_private) as older, log.open("rb") as newest:
            shutil.copyfileobj(newest, older)
        os.truncate(log, 0)
