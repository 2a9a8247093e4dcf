"""The command fedct-site: one subcommand a file."""

from __future__ import annotations

import typer

from client.cli import ledger
from client.cli.cohort import cohort
from client.cli.ingest import ingest
from common.console import run_cli

app = typer.Typer(
    help="One hospital: its data, its policy, its privacy budget.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(ingest)
app.add_typer(cohort, name="cohort")
app.add_typer(ledger.app, name="ledger")


def main() -> None:
    """Entry point of fedct-site."""
    run_cli(app, "fedct-site")
