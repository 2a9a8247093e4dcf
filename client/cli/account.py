"""fedct-site account: who may use the site's page, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def account(
    name: Annotated[str, typer.Argument(help="The person's name: small letters and digits.")],
    site: Annotated[Path, typer.Option(help="The site folder; by default this one.")] = Path(),
    role: Annotated[
        str, typer.Option(help="viewer looks, operator also scans and adds studies, approver also decides on them.")
    ] = "viewer",
    password_file: Annotated[Path | None, typer.Option(help="File with the password; else asked for.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="End the account, and its sessions.")] = False,
) -> None:
    """Give a person an account on the site's page, or another role and password; or take it away."""
    from client.site import load_site
    from common.web.account_command import change_account
    from common.web.accounts import FILE, Accounts

    change_account(Accounts(load_site(site).folder / FILE), name, role, password_file, remove=remove)
