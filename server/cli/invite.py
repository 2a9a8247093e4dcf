"""fedct-coordinator invite: an invitation for one site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.clock import now
from common.console import say
from server.cli.options import HERE, FolderOption


def invite(
    title: Annotated[str, typer.Argument(metavar="NAME", help='The hospital, such as "St. Anna".')],
    out_file: Annotated[Path, typer.Option("--out", help="The invitation, to be sent to the hospital.")],
    folder: FolderOption = HERE,
) -> None:
    """Write an invitation that one hospital can use once. A former one that it did not use is withdrawn."""
    from common.files import write_atomic
    from server.coordinator import open_coordinator
    from server.enrolment import invite as make

    made = make(open_coordinator(folder), title, now())
    invitation = made.invitation
    write_atomic(out_file.absolute(), made.document.encode())
    say(f"{out_file}: invitation of site '{invitation.site}', to be used once until {invitation.expires}")
    say("Send it to the hospital alone: whoever holds it first can join in its place")
    say(f"When the hospital calls, compare the coordinator's fingerprint: {invitation.fingerprint}")
