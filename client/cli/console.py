"""fedct-site console: the page that the people of the hospital work from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say

PORT = 8461


def console(
    site: Annotated[Path, typer.Option(help="The site folder; by default this one.")] = Path(),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = PORT,
    host: Annotated[str, typer.Option(help="The address to listen on; other than loopback takes TLS and accounts.")] = (
        "127.0.0.1"
    ),
    certificate: Annotated[Path | None, typer.Option(help="The page's TLS certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM.")] = None,
) -> None:
    """Serve the site's page: studies to approve, the budget, cohorts, what left; until stopped (Ctrl-C)."""
    from client.console.app import run
    from client.site import load_site
    from common.web.accounts import FILE, Accounts
    from common.web.serve import exposure

    opened = load_site(site)
    run(opened, exposure(host, port, Accounts(opened.folder / FILE), certificate, key), say)
