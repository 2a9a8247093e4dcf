"""What became of the studies that were launched: read from their run folders, and from the SuperLink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from common.errors import RunError, UsageError
from server.control import Run
from server.history import History, history
from server.run_folder import RunFolder

if TYPE_CHECKING:
    from server.daemon import Daemon

State = Literal["running", "finished", "failed", "interrupted", "stopped", "unknown"]


@dataclass(frozen=True)
class Standing:
    """How a run stands. ``round``: the last complete one, of ``rounds``. ``reason``: why it failed, or empty.

    ``interrupted``: its process ended without a word. ``unknown``: it has not ended by its own account, and there is
    no SuperLink to ask.
    """

    name: str
    state: State
    round: int
    rounds: int
    reason: str


def run_names(daemon: Daemon) -> list[str]:
    """Names of all runs, oldest first."""
    if not daemon.runs.is_dir():
        return []
    found = [path.name for path in daemon.runs.iterdir() if (path / "run" / "study.json").exists()]
    return sorted(found, key=lambda name: (daemon.runs / name / "run" / "study.json").stat().st_mtime)


def find_run(daemon: Daemon, name: str) -> RunFolder:
    """The folder of the run of this name. Raises UsageError when there is none."""
    if name not in run_names(daemon):
        raise UsageError(f"there is no run '{name}'", "'fedct-coordinator runs' shows their names")
    return RunFolder(daemon.runs.resolve() / name)


def standings(daemon: Daemon) -> list[Standing]:
    """How every run of this coordinator stands, oldest first."""
    names = run_names(daemon)
    try:
        with daemon.control() as link:
            known: dict[int, Run] | None = {run.id: run for run in link.runs()}
    except RunError:
        known = None
    return [standing(name, RunFolder(daemon.runs / name), known) for name in names]


def standing(name: str, folder: RunFolder, known: Mapping[int, Run] | None) -> Standing:
    """How one run stands. ``known``: the SuperLink's runs, or None when there is none to ask."""
    return judge(name, folder, folder.study().federation.rounds, history(folder), known)


def judge(name: str, folder: RunFolder, rounds: int, past: History, known: Mapping[int, Run] | None) -> Standing:
    """``standing`` of a run of so many ``rounds`` whose events were read already."""
    done = past.done
    if past.end is not None:
        state: State = "finished" if past.end["outcome"] == "finished" else "failed"
        return Standing(name, state, done, rounds, past.end["reason"])
    if known is None:
        return Standing(name, "unknown", done, rounds, "")
    run = known.get(flower_run(folder))
    if run is not None and not run.status.startswith("finished"):
        return Standing(name, "running", done, rounds, "")
    if run is not None and run.status == "finished:stopped":
        return Standing(name, "stopped", done, rounds, "")
    remedy = f"go on with 'fedct-coordinator resume {name}'"
    return Standing(name, "interrupted", done, rounds, f"its process ended without a word: {remedy}")


@dataclass(frozen=True)
class UnderWay:
    """What is not complete: who was asked, and who has answered in whatever way. ``final``: the last evaluation."""

    round: int
    final: bool
    asked: tuple[str, ...]
    answered: tuple[str, ...]


def under_way(folder: RunFolder) -> UnderWay | None:
    """The round that the run's newest attempt is in; None before it asks anybody, between rounds and after the end."""
    past = history(folder)
    asked = [place for place in past.places.values() if place.since]
    answered = tuple(place.site for place in asked if place.doing not in ("working", "gone"))
    return UnderWay(past.number, past.final, tuple(place.site for place in asked), answered) if asked else None


def attempts(folder: RunFolder) -> int:
    """How often the run was resumed since a round was last completed."""
    return history(folder).attempts


def stop_run(daemon: Daemon, name: str) -> bool:
    """Stop the run of this name; False when it was over. Raises UsageError when there is none of this name."""
    number = flower_run(find_run(daemon, name))
    with daemon.control() as link:
        found = {run.id: run for run in link.runs()}.get(number)
        if found is None or found.status.startswith("finished"):
            return False
        return link.stop_run(number)


def flower_run(folder: RunFolder) -> int:
    """Flower's number of the run; 0, which Flower never gives, when it was never started."""
    try:
        return folder.launch().flower_run
    except RunError:
        return 0
