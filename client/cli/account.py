"""fedct-site account: who may use the site's page, and for what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.console import say

if TYPE_CHECKING:
    from common.web.accounts import Accounts

app = typer.Typer(help="Accounts of the site's page.", no_args_is_help=True)

SiteOption = Annotated[Path, typer.Option("--site", help="The site folder; by default this one.")]
NameArgument = Annotated[str, typer.Argument(help="The person's name on the page.")]
HERE = Path()


@app.command()
def put(
    name: NameArgument,
    role: Annotated[str, typer.Option(help="viewer looks, operator also scans, approver also decides on studies.")],
    site: SiteOption = HERE,
    password_file: Annotated[
        Path | None, typer.Option(help="A file that holds the password; by default it is asked for.")
    ] = None,
) -> None:
    """Add a person, or give one another role and password."""
    from common.web.accounts import role_of

    accounts, wanted = _accounts(site), role_of(role)
    if password_file is None:
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = password_file.read_text(encoding="utf-8").rstrip("\r\n")
    accounts.put(name, wanted, password)
    say(f"{accounts.path}: '{name}' is {wanted}")


@app.command()
def remove(name: NameArgument, site: SiteOption = HERE) -> None:
    """Remove a person, who is logged out at once."""
    accounts = _accounts(site)
    accounts.remove(name)
    say(f"{accounts.path}: '{name}' is removed")


@app.command(name="list")
def show(site: SiteOption = HERE) -> None:
    """Show the accounts and their roles."""
    found = _accounts(site).read()
    for name in sorted(found):
        say(f"{name}: {found[name].role}")
    if not found:
        say("No accounts: the page lets in whoever holds the link that 'fedct-site console' prints")


def _accounts(folder: Path) -> Accounts:
    from client.site import load_site
    from common.web.accounts import FILE, Accounts

    return Accounts(load_site(folder).folder / FILE)
