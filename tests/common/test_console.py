import errno
import io
import json
import sys

import pytest
import typer

from common import console
from common.errors import BudgetExceeded, StudyError, UsageError


def run(monkeypatch, capsys, raised, *arguments):
    """Run a command that raises; exit code and what stderr says."""
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise raised

    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    monkeypatch.setattr(console.err, "_file", sys.stderr)  # not "file", which would stay set
    with pytest.raises(SystemExit) as exit_:
        console.run_cli(app, "tool")
    return exit_.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (StudyError("x.toml: rounds = -1", "Correct it"), 3, "tool: x.toml: rounds = -1. Correct it"),
        (BudgetExceeded("too much"), 6, "tool: too much"),
        (OSError(errno.ENOSPC, "No space left on device", "/a/b"), 9, "no space left while writing '/a/b'"),
        (OSError(errno.EACCES, "Permission denied", "/a/b"), 9, "'/a/b' can't be written or read"),
        (RuntimeError("odd"), 1, "unexpected RuntimeError: odd. Run again with --debug"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_with_its_own_exit_code(monkeypatch, capsys, raised, code, text):
    got, err = run(monkeypatch, capsys, raised)
    assert got == code
    assert text in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


def test_debug_shows_the_trace(monkeypatch):
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise StudyError("wrong")

    monkeypatch.setattr(sys, "argv", ["tool", "--debug"])
    with pytest.raises(StudyError):
        console.run_cli(app, "tool")


def test_plain_progress_prints_the_last_line_always(capsys, monkeypatch):
    monkeypatch.setattr(console.out, "_file", sys.stdout)
    with console.stage("Reading") as progress:
        progress(1, 3)
        progress(3, 3, "done")
    assert capsys.readouterr().out == "Reading: 3/3 done\n"


def test_json_for_programs_is_one_document_and_nothing_else(capsys):
    content = {"site": "st-anna", "rounds": [1, 2], "left": None}
    console.print_json(content)
    assert json.loads(capsys.readouterr().out) == content


def test_where_nobody_can_be_asked_the_answer_is_no(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError, match="nobody is there"):
        console.confirm("Is it the same?", "Give it with --fingerprint")


@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_only_a_yes_is_a_yes(monkeypatch, answer):
    keyboard = io.StringIO(answer)
    monkeypatch.setattr(keyboard, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", keyboard)
    with pytest.raises(typer.Abort):
        console.confirm("Is it the same?", "")


def test_help_tells_of_debug(monkeypatch, capsys):
    app = console.command_line("A tool.")
    app.command()(lambda: None)
    app.command("other")(lambda: None)
    monkeypatch.setattr(sys, "argv", ["tool", "--help"])
    with pytest.raises(SystemExit):
        console.run_cli(app, "tool")
    assert "--debug" in capsys.readouterr().out
