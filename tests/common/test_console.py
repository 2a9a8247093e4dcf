import errno
import sys

import pytest
import typer

from common import console
from common.errors import BudgetExceeded, StudyError


def run(monkeypatch, capsys, raised, *arguments):
    """Run a command that raises; exit code and what stderr says."""
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise raised

    monkeypatch.setattr(sys, "argv", ["tool", *arguments])
    monkeypatch.setattr(console.err, "file", sys.stderr)
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
    monkeypatch.setattr(console.out, "file", sys.stdout)
    with console.stage("Reading") as progress:
        progress(1, 3)
        progress(3, 3, "done")
    assert capsys.readouterr().out == "Reading: 3/3 done\n"
