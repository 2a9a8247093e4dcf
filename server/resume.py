"""Runs that ended without a word go on by themselves while the coordinator serves.

A run whose process was killed, or lost its SuperLink for longer than Flower's lease of 60 s, has said nothing of an
end. It is resumed, at most ``ATTEMPTS`` times in a row without a round being completed, since each repeated round is a
charge at every site. One that failed by its own account, or was stopped by a person, is a person's to resume.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from common.errors import FedctError, from_os_error
from server.control import NotRunning, Run
from server.launch import resume
from server.run_folder import RunFolder
from server.runs import attempts, flower_run, run_names, standing

if TYPE_CHECKING:
    from server.daemon import Daemon

ATTEMPTS = 2
EVERY_SECONDS = 5.0


def keep_resumed(daemon: Daemon, told_to_stop: threading.Event, note: Callable[[str], None]) -> None:
    """Resume what ended without a word, every few seconds until told to stop, and note each in one line."""
    said = ""
    while not told_to_stop.wait(EVERY_SECONDS):
        try:
            with daemon.control() as link:
                known = {run.id: run for run in link.runs()}
            for name in interrupted(daemon, known):
                run = resume(daemon, name).run
                note(f"Run '{name}' ended without a word and goes on as Flower's run {run}")
        except NotRunning:
            continue
        except (FedctError, OSError) as error:
            line = f"A run can't go on: {(from_os_error(error) if isinstance(error, OSError) else error).message}"
            if line != said:
                note(line)
                said = line


def interrupted(daemon: Daemon, known: Mapping[int, Run]) -> list[str]:
    """The runs to resume, oldest first. ``known``: the SuperLink's."""
    found = []
    for name in run_names(daemon):
        folder = RunFolder(daemon.runs / name)
        begun = flower_run(folder) != 0  # else somebody is just starting it
        if begun and standing(name, folder, known).state == "interrupted" and attempts(folder) < ATTEMPTS:
            found.append(name)
    return found
