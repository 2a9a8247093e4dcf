"""fedct-coordinator systemd: the coordinator's service, ready to install."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say
from server.cli.options import HERE, FolderOption


def systemd(
    folder: FolderOption = HERE,
    bind: Annotated[str, typer.Option(help="Address of this machine to listen on for sites.")] = "0.0.0.0",  # noqa: S104 - sites come from outside
    out: Annotated[
        Path | None, typer.Option(help="The folder to write the unit file to; by default it is printed.")
    ] = None,
) -> None:
    """Print the unit file of the coordinator, or write it; what root does once stands at its head."""
    from common.files import write_atomic
    from server.coordinator import open_coordinator
    from server.systemd import UNIT, unit

    text = unit(open_coordinator(folder), bind)
    if out is None:
        typer.echo(text)
        return
    write_atomic(out / UNIT, text.encode(), mode=0o644)
    say(f"Written to '{out / UNIT}'")
