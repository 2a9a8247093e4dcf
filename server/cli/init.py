"""fedct-coordinator init: make a coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.clock import now
from common.console import say
from common.pki.address import parse_address
from server.cli.options import PassphraseOption, passphrase


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder.")],
    address: Annotated[str, typer.Option(help="HOST:PORT at which sites reach it.")],
    title: Annotated[str, typer.Option(help="Who coordinates, in words; by default the host.")] = "",
    passphrase_file: PassphraseOption = None,
) -> None:
    """Make a coordinator: its authority, its server's certificate, its study key, and an empty registry."""
    from server import ca

    where = parse_address(address)
    made = ca.create(folder, title or where.host, where, passphrase(passphrase_file, new=True), now())
    say(f"Made coordinator '{made.config.title}' in '{folder}', to be reached at {made.config.address}")
    say(f"Fingerprint, for sites to compare by telephone: {ca.fingerprint(made)}")
    say("Keep copies of the folder and of the passphrase elsewhere: without both, no certificate can be renewed")
