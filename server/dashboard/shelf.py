"""The runs that a page shows: a coordinator's, or the one of a simulation. What was read once is not read again."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from common.errors import FedctError, RunError, UsageError
from common.study import Study
from server.control import Run
from server.daemon import Daemon
from server.dashboard.so_far import SoFar
from server.history import History, Reader, moment
from server.run_folder import RunFolder
from server.runs import Standing, find_run, judge, run_names

KNOWN_SECONDS = 2.0  # how long the SuperLink's answer is taken for the present
LAST_ROUNDS = 5  # of which the time left is estimated


@dataclass(frozen=True)
class Shown:
    """One run as it stands. ``left``: seconds until its rounds are done, estimated from the last ones; None if unknown."""

    name: str
    folder: RunFolder
    study: Study
    history: History
    standing: Standing
    left: float | None

    @property
    def title(self) -> str:
        """The study's title, or its name."""
        return self.study.title or self.study.name

    @property
    def stamp(self) -> Hashable:
        """Another value whenever something else is to be shown."""
        past = self.history
        places = tuple((place.site, place.doing) for place in past.places.values())
        return (self.standing.state, past.done, past.number, places, len(past.hellos), past.end is None)


class Shelf(Protocol):
    """Where runs lie."""

    def names(self) -> list[str]:
        """Names of all runs, oldest first."""

    def folder(self, name: str) -> RunFolder:
        """The folder of a run. Raises UsageError when there is none of this name."""

    def standing(self, name: str, folder: RunFolder, rounds: int, past: History) -> Standing:
        """How a run stands."""


class CoordinatorShelf:
    """The runs of a coordinator, as its SuperLink knows them."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon, self._lock = daemon, threading.Lock()
        self._known: Mapping[int, Run] | None = None
        self._asked = float("-inf")

    def names(self) -> list[str]:
        return run_names(self._daemon)

    def folder(self, name: str) -> RunFolder:
        return find_run(self._daemon, name)

    def standing(self, name: str, folder: RunFolder, rounds: int, past: History) -> Standing:
        return judge(name, folder, rounds, past, self._runs() if past.end is None else None)

    def _runs(self) -> Mapping[int, Run] | None:
        """The SuperLink's runs; None when it does not answer."""
        with self._lock:
            if time.monotonic() - self._asked > KNOWN_SECONDS:
                try:
                    with self._daemon.control() as link:
                        self._known = {run.id: run for run in link.runs()}
                except RunError:
                    self._known = None
                self._asked = time.monotonic()
            return self._known


class SimulationShelf:
    """The one run in a folder that ``fedct-sim run`` wrote, or writes. Raises UsageError when it holds none."""

    def __init__(self, root: Path) -> None:
        self._folder = RunFolder(root.resolve())
        if not (self._folder.inner / "study.json").is_file():
            raise UsageError(f"'{root}' holds no run", "Give the --out folder of 'fedct-sim run'")

    def names(self) -> list[str]:
        return [self._folder.root.name]

    def folder(self, name: str) -> RunFolder:
        if name not in self.names():
            raise UsageError(f"there is no run '{name}'", f"This page shows '{self._folder.root.name}'")
        return self._folder

    def standing(self, name: str, folder: RunFolder, rounds: int, past: History) -> Standing:
        if past.end is None:
            state = "running" if folder.busy() else "interrupted"
            return Standing(name, state, past.done, rounds, "")  # type: ignore[arg-type] # both are states
        return judge(name, folder, rounds, past, None)


class Runs:
    """What is on a shelf, with what was read of each run."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf, self._lock = shelf, threading.Lock()
        self._readers: dict[str, tuple[Reader, threading.Lock]] = {}
        self._studies: dict[str, tuple[float, Study]] = {}
        self._so_far: dict[str, SoFar] = {}

    def names(self) -> list[str]:
        """Names of all runs, oldest first."""
        return self._shelf.names()

    def folder(self, name: str) -> RunFolder:
        """The folder of a run. Raises UsageError when there is none of this name."""
        return self._shelf.folder(name)

    def one(self, name: str) -> Shown:
        """One run as it stands. Raises UsageError when there is none of this name."""
        folder = self._shelf.folder(name)
        with self._lock:
            reader, lock = self._readers.setdefault(name, (Reader(folder), threading.Lock()))
        with lock:
            past = reader.look().copy()
        study = self._study(name, folder)
        standing = self._shelf.standing(name, folder, study.federation.rounds, past)
        return Shown(name, folder, study, past, standing, _left(standing, past))

    def so_far(self, name: str) -> SoFar:
        """The figures of a run's complete rounds. Raises UsageError when there is none of this name."""
        folder = self._shelf.folder(name)
        with self._lock:
            return self._so_far.setdefault(name, SoFar(folder.inner))

    def all(self) -> list[Shown]:
        """All runs, newest first; those whose study can't be read are left out."""
        found = []
        for name in reversed(self.names()):
            try:
                found.append(self.one(name))
            except (FedctError, OSError):
                continue
        return found

    def read_ahead(self, stopping: threading.Event) -> None:
        """Read and draw what the first looks ask for, run by run until ``stopping`` is set."""
        for shown in self.all():
            if stopping.is_set():
                return
            if shown.history.rounds and not shown.folder.report_file.is_file():
                with contextlib.suppress(FedctError, OSError):  # the page says what is wrong
                    self.so_far(shown.name).figures()

    def _study(self, name: str, folder: RunFolder) -> Study:
        changed = (folder.inner / "study.json").stat().st_mtime
        with self._lock:
            known = self._studies.get(name)
        if known is None or known[0] != changed:
            known = (changed, folder.study())
            with self._lock:
                self._studies[name] = known
        return known[1]


def _left(standing: Standing, past: History) -> float | None:
    if standing.state != "running" or not past.rounds:
        return None
    last = past.rounds[-LAST_ROUNDS:]
    each = sum(one.seconds for one in last) / len(last)
    begun = moment(past.started) if past.started else moment(last[-1].time)
    spent = max(0.0, time.time() - begun.timestamp())
    return max(0.0, each * (standing.rounds - standing.round) - min(spent, each))
