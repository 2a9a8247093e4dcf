"""The command fedct-coordinator: one subcommand a file."""

from __future__ import annotations

from common.console import command_line, run_cli
from server.cli.account import account
from server.cli.admit import admit
from server.cli.dashboard import dashboard
from server.cli.export import export
from server.cli.init import init
from server.cli.invite import invite
from server.cli.launch import launch
from server.cli.logs import logs
from server.cli.model import model
from server.cli.pretrain import pretrain
from server.cli.renew import renew
from server.cli.resume import resume
from server.cli.revoke import revoke
from server.cli.rounds import rounds
from server.cli.runs import runs
from server.cli.sign import sign
from server.cli.start import start
from server.cli.status import status
from server.cli.stop import stop

app = command_line("The coordinator: its keys, the sites it invites, and the studies it signs and runs.")
enrolment = (init, invite, admit, revoke, renew, status)
studies = (sign, start, launch, runs, rounds, logs, stop, resume, model, export, pretrain)
pages = (dashboard, account)
for command in (*enrolment, *studies, *pages):
    app.command()(command)


def main() -> None:
    """Entry point of fedct-coordinator."""
    run_cli(app, "fedct-coordinator")
