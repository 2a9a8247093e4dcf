"""fedct-coordinator invite: an invitation for one site."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer

from common.console import say
from server.cli.options import HERE, FolderOption, now


def invite(
    title: Annotated[str, typer.Argument(metavar="NAME", help='The hospital, such as "St. Anna".')],
    out_file: Annotated[Path, typer.Option("--out", help="The invitation, to be sent to the hospital.")],
    folder: FolderOption = HERE,
) -> None:
    """Write an invitation that one hospital can use once. A former one that it did not use is withdrawn."""
    from common.files import write_atomic
    from common.pki.invitation import make_invitation, sign_invitation
    from server.coordinator import open_coordinator, read_file
    from server.registry import Registry, site_name

    opened = open_coordinator(folder)
    key, moment = opened.study_key(), now()
    invitation = make_invitation(
        coordinator=opened.config.title,
        address=opened.config.address,
        authority=read_file(opened.authority_file).decode("utf-8", "replace"),
        study_key=key,
        site=site_name(title),
        title=title,
        now=moment,
        random=secrets.token_bytes,
    )
    Registry(opened.registry_file).invite(invitation, moment)
    write_atomic(out_file.absolute(), sign_invitation(invitation, key).encode())
    say(f"{out_file}: invitation of site '{invitation.site}', to be used once until {invitation.expires}")
    say("Send it to the hospital alone: whoever holds it first can join in its place")
    say(f"When the hospital calls, compare the coordinator's fingerprint: {invitation.fingerprint}")
