"""fedct-coordinator account: who may use the page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from server.cli.options import HERE, FolderOption


def account(
    name: Annotated[str, typer.Argument(help="The person's name: small letters and digits.")],
    folder: FolderOption = HERE,
    role: Annotated[str, typer.Option(help="viewer, operator or approver.")] = "viewer",
    password_file: Annotated[Path | None, typer.Option(help="File with the password; else asked for.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="End the account, and its sessions.")] = False,
) -> None:
    """Give a person an account on the page, or another role and password; or take it away."""
    from common.web.account_command import change_account
    from common.web.accounts import FILE, Accounts
    from server.coordinator import open_coordinator

    change_account(Accounts(open_coordinator(folder).folder / FILE), name, role, password_file, remove=remove)
