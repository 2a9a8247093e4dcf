"""fedct-coordinator start: serve sites and run studies, until stopped."""

from __future__ import annotations

from typing import Annotated

import typer

from common.console import say
from common.supervisor import told_by_signals
from server.cli.options import HERE, FolderOption


def start(
    folder: FolderOption = HERE,
    bind: Annotated[str, typer.Option(help="Address of this machine to listen on for sites.")] = "0.0.0.0",  # noqa: S104 - sites come from outside
) -> None:
    """Serve sites and run studies until stopped (Ctrl-C, or systemctl stop)."""
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of, run

    opened = open_coordinator(folder)
    say(f"Serving sites at {opened.config.address}; logs in '{daemon_of(opened).superlink}'")
    run(opened, bind, told_by_signals(), say)
