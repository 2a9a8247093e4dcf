"""fedct-coordinator resume: go on with a run that ended before its time."""

from __future__ import annotations

from common.console import say
from server.cli.options import HERE, FolderOption, RunArgument


def resume(name: RunArgument, folder: FolderOption = HERE) -> None:
    """Go on after the last complete round; sites charge the round that was broken off once more."""
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.launch import resume as go_on
    from server.runs import find_run, standing

    daemon = daemon_of(open_coordinator(folder))
    stands = standing(name, find_run(daemon, name), None)
    started = go_on(daemon, name)
    say(f"'{name}' goes on after round {stands.round} of {stands.rounds}, as Flower's run {started.run}")
    say("A round that was broken off is asked anew, and charged anew at each site; one whose budget lacks it refuses")
