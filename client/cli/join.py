"""fedct-site join: from a coordinator's invitation to a request that it can admit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.console import confirm, say
from common.errors import UsageError


def join(
    invite: Annotated[Path, typer.Argument(metavar="INVITATION", help="The file that the coordinator sent.")],
    site: Annotated[Path | None, typer.Option(help="The site folder; by default one of the site's name, here.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="The fingerprint was compared; don't ask.")] = False,
) -> None:
    """Join a coordinator: make this site's node key, and write the request to send back.

    The fingerprint that is shown must be the one that the coordinator reads out on the telephone.
    """
    from client.join import join as enrol
    from common.files import write_atomic
    from common.pki.documents import MOST_BYTES
    from common.pki.invitation import open_invitation
    from common.pki.request import open_request

    if not invite.is_file():
        raise UsageError(f"invitation '{invite}' does not exist", "Give the file that the coordinator sent")
    with invite.open("rb") as file:
        invitation = open_invitation(file.read(MOST_BYTES + 1), datetime.now(UTC))
    say(f"'{invitation.coordinator}' at {invitation.address} invites '{invitation.title}' as site '{invitation.site}'")
    say(f"Fingerprint of the coordinator: {invitation.fingerprint}")
    if not yes:
        confirm(
            "Does the coordinator read out the same on the telephone?",
            "Call the coordinator, on a number that is not from the invitation's mail, compare, then give --yes",
        )
    joined, request = enrol(invitation, site or Path(invitation.site))
    path = invite.with_name(f"{invitation.site}.request")
    write_atomic(path.absolute(), request.encode())
    say(f"Site '{joined.name}' in '{joined.folder}'; its limits are in site.toml, and are the strictest to begin with")
    say(
        f"Send '{path}' to the coordinator, and read out this fingerprint of your node: {open_request(request.encode()).fingerprint}"
    )
