"""fedct-coordinator account: who may use the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say
from server.cli.options import HERE, FolderOption


def account(
    name: Annotated[str, typer.Argument(help="The person's name: small letters and digits.")],
    folder: FolderOption = HERE,
    role: Annotated[str, typer.Option(help="viewer, operator or approver.")] = "viewer",
    password_file: Annotated[Path | None, typer.Option(help="File with the password; else asked for.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="End the account, and its sessions.")] = False,
) -> None:
    """Give a person an account on the page, or another role and password; or take it away."""
    from common.web.accounts import FILE, Accounts, role_of
    from common.web.password import password_from
    from server.coordinator import open_coordinator

    accounts = Accounts(open_coordinator(folder).folder / FILE)
    if remove:
        accounts.remove(name)
        say(f"'{name}' has no account any more")
        return
    wanted = role_of(role)
    accounts.put(name, wanted, password_from(password_file))
    say(f"'{name}' may use the page as {wanted}; a page that is being served without accounts has to be started anew")
