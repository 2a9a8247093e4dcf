"""What an ``account`` command does, at the coordinator and at a site."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from common.console import read_secret, say
from common.errors import UsageError
from common.web.accounts import Accounts, role_of


def change_account(accounts: Accounts, name: str, role: str, password_file: Path | None, *, remove: bool) -> None:
    """Give a person an account, or another role and password; or take it away. Says what it did; raises UsageError."""
    if remove:
        accounts.remove(name)
        say(f"'{name}' has no account any more")
        return
    wanted = role_of(role)
    accounts.put(name, wanted, _password(password_file))
    say(f"'{name}' may use the page as {wanted}; a page that is being served without accounts has to be started anew")


def _password(file: Path | None) -> str:
    """The content of ``file``, without the end of its line, or what is typed twice. Raises UsageError when there is neither."""
    if file is not None:
        return read_secret(file, "password")
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the password", "Give --password-file")
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return asked
