"""Options that several subcommands take."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from common.console import read_secret
from common.errors import UsageError

PASSPHRASE_VARIABLE = "FEDCT_PASSPHRASE"  # noqa: S105 - its name, not its value

FolderOption = Annotated[Path, typer.Option("--dir", help="The coordinator's folder; by default this one.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Name of the run, as 'fedct-coordinator runs' shows it.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
PassphraseOption = Annotated[
    Path | None,
    typer.Option(help=f"File with the passphrase of the authority's key; else {PASSPHRASE_VARIABLE}, else asked for."),
]
HERE = Path()


def passphrase(file: Path | None, *, new: bool) -> str:
    """The passphrase of the authority's key: from a file, the environment, or the terminal (twice if ``new``).

    Raises UsageError when there is none to be had.
    """
    if file is not None:
        return read_secret(file, "passphrase")
    if PASSPHRASE_VARIABLE in os.environ:
        return os.environ[PASSPHRASE_VARIABLE]
    if not sys.stdin.isatty():
        raise UsageError(
            "there is no terminal to ask for the passphrase", f"Give --passphrase-file, or set {PASSPHRASE_VARIABLE}"
        )
    asked: str = typer.prompt("Passphrase of the authority's key", hide_input=True, confirmation_prompt=new, err=True)
    return asked
