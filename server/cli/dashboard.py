"""fedct-coordinator dashboard: the page that people work from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say
from common.flower_env import LOOPBACK
from server.cli.options import HERE, FolderOption

PORT = 8460


def dashboard(
    folder: FolderOption = HERE,
    run: Annotated[
        Path | None, typer.Option(help="Show the --out folder of 'fedct-sim run' instead of a coordinator.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than loopback needs TLS and accounts.")
    ] = LOOPBACK,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = PORT,
    certificate: Annotated[Path | None, typer.Option(help="The page's certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
) -> None:
    """Serve the coordinator's page until stopped; without accounts, to whoever opens the link that is printed."""
    from common.web.accounts import FILE, Accounts
    from common.web.journal import Journal
    from common.web.serve import exposure, listen, meanwhile, serve
    from server.coordinator import open_coordinator
    from server.dashboard.app import coordinator_app, simulation_app

    opened = None if run else open_coordinator(folder)
    home = opened.folder if opened else (run or folder) / "run"
    where = exposure(host, port, Accounts(home / FILE), certificate, key)
    with listen(host, port) as listener:
        where = where.on(listener)
        journal = Journal(home / "actions.jsonl")
        if opened:
            app = coordinator_app(opened, where, journal, say)
        else:
            app = simulation_app(home.parent, where, journal, say)
        with meanwhile(app.state.desk.runs.read_ahead):
            serve(app, listener, where, lambda: say(f"Open {where.link(app)}"))
