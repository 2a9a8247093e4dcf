"""fedct-site serve: take part in studies, until stopped."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from common.console import say
from common.supervisor import told_by_signals


class Half(Enum):
    """One of the two services of a site."""

    NODE = "node"
    RUNNER = "runner"


def serve(
    # readable: the node's user may enter the folder, and not list it
    site: Annotated[Path, typer.Option(readable=False, help="The site folder; by default this one.")] = Path(),
    part: Annotated[Half | None, typer.Option(help="Run this half alone; by default both.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Loopback port of /health and /metrics; by default site.toml's, 0 is none."
        ),
    ] = None,
) -> None:
    """Take part in studies that this site approved, until stopped (Ctrl-C, or systemctl stop)."""
    from client.node import BOTH, Part
    from client.node import serve as run
    from client.site import load_site

    opened = load_site(site)
    if opened.joined:
        logs = " and ".join(f"'{folder}'" for folder in (opened.node_dir, opened.runner_dir))
        say(f"Site '{opened.name}' takes part at {opened.config.coordinator.address}; logs in {logs}")
    parts: tuple[Part, ...] = BOTH if part is None else ("node" if part is Half.NODE else "runner",)
    run(
        opened,
        told_by_signals(),
        say,
        parts,
        opened.config.service.metrics_port if metrics_port is None else metrics_port,
    )
