"""fedct-coordinator revoke: a site may no longer connect."""

from __future__ import annotations

from typing import Annotated

import typer

from common.clock import now
from common.console import say
from server.cli.options import HERE, FolderOption


def revoke(
    site: Annotated[str, typer.Argument(help="The site's name, as 'status' shows it.")], folder: FolderOption = HERE
) -> None:
    """End a site's node for good, and withdraw invitations that it has not used."""
    from server.coordinator import open_coordinator
    from server.enrolment import tell_superlink
    from server.registry import Registry

    opened = open_coordinator(folder)
    Registry(opened.registry_file).revoke(site, now())
    say(f"Site '{site}' is revoked; to take part again it needs a new invitation and makes a new key")
    say(tell_superlink(opened))
