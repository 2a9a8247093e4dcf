"""The command fedct-site: one subcommand a file."""

from __future__ import annotations

from client.cli import ledger, model, study
from client.cli.account import account
from client.cli.cohort import cohort
from client.cli.console import console
from client.cli.doctor import doctor
from client.cli.explain import explain
from client.cli.ingest import ingest
from client.cli.join import join
from client.cli.predict import predict
from client.cli.serve import serve
from client.cli.systemd import systemd
from common.console import command_line, run_cli

app = command_line("One hospital: its data, its policy, its privacy budget.")
app.command()(join)
app.command()(ingest)
app.command()(serve)
app.command()(predict)
app.command()(explain)
app.command()(console)
app.command()(account)
app.command()(doctor)
app.command()(systemd)
app.add_typer(cohort, name="cohort")
app.add_typer(study.app, name="study")
app.add_typer(ledger.app, name="ledger")
app.add_typer(model.app, name="model")


def main() -> None:
    """Entry point of fedct-site."""
    run_cli(app, "fedct-site")
