"""fedct-site systemd: the site's two services, ready to install."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say


def systemd(
    site: Annotated[Path, typer.Option(help="The site folder; by default this one.")] = Path(),
    out: Annotated[
        Path | None, typer.Option(help="The folder to write the unit files to; by default they are printed.")
    ] = None,
) -> None:
    """Print the unit files of node and trainer, or write them; what root does once stands at their head."""
    from client.site import load_site
    from client.systemd import units
    from common.files import write_atomic

    for name, text in units(load_site(site)).items():
        if out is None:
            typer.echo(f"# {name}\n{text}")
        else:
            write_atomic(out / name, text.encode(), mode=0o644)
            say(f"Written to '{out / name}'")
