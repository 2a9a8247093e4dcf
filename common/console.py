"""What a person sees in a terminal: progress, and errors in one line.

In a terminal a bar moves; otherwise plain lines appear, at most one every few seconds.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from common.errors import FedctError, UsageError, from_os_error

PLAIN_SECONDS = 5.0
INTERRUPTED = 130

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


@dataclass
class _Plain:
    """Prints ``title: done/total`` now and then, and always the last."""

    title: str
    console: Console
    last: float = field(default_factory=time.monotonic)

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        if done >= total or now - self.last >= PLAIN_SECONDS:
            self.last = now
            self.console.print(f"{self.title}: {done}/{total} {note}".rstrip(), markup=False, soft_wrap=True)


@contextlib.contextmanager
def stage(title: str, console: Console = out) -> Iterator[Callable[..., None]]:
    """Show the progress of one piece of work; call the value with (done, total, note="")."""
    if not console.is_terminal:
        yield _Plain(title, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield update


def say(text: str, console: Console = out) -> None:
    """One plain line."""
    console.print(text, markup=False, soft_wrap=True)


def print_json(content: Any) -> None:
    """What a program reads: one indented JSON document and nothing else."""
    typer.echo(json.dumps(content, indent=2))


def confirm(question: str, otherwise: str) -> None:
    """Go on only if a person says yes. Raises UsageError with the remedy ``otherwise`` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to compare the fingerprint", otherwise)
    typer.confirm(question, abort=True)


def read_secret(file: Path, what: str) -> str:
    """The content of a ``what`` file, without the end of its line. Raises UsageError unless it is a text."""
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except FileNotFoundError:
        raise UsageError(f"{what} file '{file}' does not exist", "Give a file with one line") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what} file '{file}' is not UTF-8 text", "Give a file with one line") from None


def command_line(purpose: str) -> typer.Typer:
    """An empty command line for ``run_cli``; ``purpose`` heads its --help."""
    return typer.Typer(
        help=purpose,
        epilog="Any command takes --debug, which shows the trace of an error.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )


def run_cli(app: typer.Typer, name: str) -> None:
    """Run a command; an error of ours is one line and its exit code, the trace only with --debug."""
    signal.signal(signal.SIGTERM, _interrupt)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        result = app(arguments, prog_name=name, standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        code = _report(error, name)
    if code == INTERRUPTED:
        err.print(f"{name}: interrupted; what was complete is kept", markup=False)
    sys.exit(code)


def _interrupt(_signal: int, _frame: object) -> None:
    """To be stopped is to be interrupted: what was started is ended, whoever asks."""
    raise KeyboardInterrupt


def _report(error: Exception, name: str) -> int:
    if isinstance(error, OSError):
        error = from_os_error(error)
    if isinstance(error, FedctError):
        err.print(f"{name}: {error}", markup=False, soft_wrap=True)
        return error.exit_code
    if hasattr(error, "format_message"):  # click's own usage errors
        err.print(f"{name}: {error.format_message()} (see {name} --help)", markup=False, soft_wrap=True)
        return 2
    err.print(
        f"{name}: unexpected {type(error).__name__}: {error}. Run again with --debug for the trace",
        markup=False,
        soft_wrap=True,
    )
    return 1
