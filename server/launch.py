"""Start a study, or go on with a run that ended before its time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RunError, UsageError
from common.files import exclusive
from common.study import Study
from server.bundle import bundle_files
from server.run_folder import Launch, RunFolder
from server.runs import find_run, standing

if TYPE_CHECKING:
    from server.control import Control
    from server.daemon import Daemon


@dataclass(frozen=True)
class Launched:
    """A study under way: its run folder, and Flower's number of the run."""

    folder: RunFolder
    run: int


def launch(daemon: Daemon, study: Study, base: Path, *, seed: int, now: datetime) -> Launched:
    """Start ``study``. ``base``: where a relative ``model.initial`` starts; ``now`` names the run folder.

    Raises RunError when the SuperLink does not run or refuses, StudyError when the initial weights can't be read;
    then no run folder is left.
    """
    name = f"{study.name}-{now:%Y%m%d-%H%M%S}"
    folder = RunFolder(daemon.runs.resolve() / name)
    with daemon.control() as link:
        if folder.root.exists():
            raise RunError(f"'{folder.root}' exists already", "Wait a second and launch again")
        try:
            folder.prepare(study, base)
            return _start(link, folder, study, seed)
        except BaseException:
            shutil.rmtree(folder.root, ignore_errors=True)
            raise


def resume(daemon: Daemon, name: str) -> Launched:
    """Go on with the run of this name after its last complete round, as a new run of Flower's in the same folder.

    Raises UsageError when there is none of this name, or it goes on or has finished; RunError when the SuperLink does
    not run or refuses.
    """
    folder = find_run(daemon, name)
    with daemon.control() as link, exclusive(daemon.superlink / "launch.lock"):
        stands = standing(name, folder, {run.id: run for run in link.runs()})
        if stands.state == "running":
            raise UsageError(f"run '{name}' is under way", "Wait, or stop it first with 'fedct-coordinator stop'")
        if stands.state == "finished":
            raise UsageError(f"run '{name}' has finished", f"Its results are in '{folder.root}'")
        folder.event("resumed", round=stands.round + 1)
        return _start(link, folder, folder.study(), folder.launch().seed)


def _start(link: Control, folder: RunFolder, study: Study, seed: int) -> Launched:
    # First without a number: a crash in between must not leave the number of an attempt that is over.
    folder.note_launch(Launch(seed, 0))
    run = link.start_run(bundle_files(study, seed, simulated=False, run=folder.root.name))
    folder.note_launch(Launch(seed, run))
    return Launched(folder, run)
