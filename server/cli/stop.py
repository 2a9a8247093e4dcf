"""fedct-coordinator stop: end a run that is under way."""

from __future__ import annotations

from common.console import say
from server.cli.options import HERE, FolderOption, RunArgument


def stop(
    name: RunArgument,
    folder: FolderOption = HERE,
) -> None:
    """Stop a run; what was complete is kept. The coordinator itself goes on serving."""
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.runs import stop_run

    daemon = daemon_of(open_coordinator(folder))
    stopped = stop_run(daemon, name)
    say(f"Stopped '{name}'" if stopped else f"'{name}' was over already")
