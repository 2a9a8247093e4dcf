"""fedct-coordinator admit: a site's request becomes an admitted node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.clock import now
from common.console import confirm, say
from common.errors import UsageError
from server.cli.options import HERE, FolderOption


def admit(
    request: Annotated[Path, typer.Argument(help="The request that the hospital sent.")],
    folder: FolderOption = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprint was compared; don't ask.")] = False,
) -> None:
    """Check a hospital's request, show its fingerprint to compare by telephone, and admit its node."""
    from common.pki.documents import MOST_BYTES
    from common.pki.request import open_request
    from server.coordinator import open_coordinator
    from server.enrolment import tell_superlink
    from server.registry import Registry

    opened = open_coordinator(folder)
    if not request.is_file():
        raise UsageError(f"request '{request}' does not exist", "Give the file that the hospital sent")
    with request.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    asked = open_request(content)
    say(f"Site '{asked.site}' asks to join with the node key {asked.fingerprint}")
    if not yes:
        confirm("Does the hospital read out the same?", "Compare it with the hospital by telephone, then give --yes")
    node = Registry(opened.registry_file).admit(content, now())
    say(f"Site '{node.site}' is admitted")
    say(tell_superlink(opened))
