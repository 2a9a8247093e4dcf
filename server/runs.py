"""What became of the studies that were launched: read from their run folders, and from the SuperLink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from common.errors import RunError, UsageError
from server.control import Run
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
    rounds = folder.study().federation.rounds
    events, _ = folder.events()
    done = max((int(event["round"]) for event in events if event["event"] == "round"), default=0)
    ends = [event for event in _of_last_attempt(events) if event["event"] == "end"]
    if ends:
        state: State = "finished" if ends[0]["outcome"] == "finished" else "failed"
        return Standing(name, state, done, rounds, ends[0]["reason"])
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
    asked: dict[str, None] = {}
    answered: dict[str, None] = {}
    round_, final = 0, False
    for event in folder.events()[0]:
        kind = event["event"]
        if kind in ("round", "end", "begin", "resumed"):
            asked, answered = {}, {}
        elif kind == "asked":
            asked[event["site"]], round_, final = None, event["round"], event["what"] == "evaluate"
        elif kind == "reply" and event["site"] in asked:
            answered[event["site"]] = None
    return UnderWay(round_, final, tuple(asked), tuple(answered)) if asked else None


def attempts(folder: RunFolder) -> int:
    """How often the run was resumed since a round was last completed."""
    count = 0
    for event in folder.events()[0]:
        count = 0 if event["event"] == "round" else count + (event["event"] == "resumed")
    return count


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


def _of_last_attempt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    resumed = [index for index, event in enumerate(events) if event["event"] == "resumed"]
    return events[resumed[-1] :] if resumed else events
