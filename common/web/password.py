"""Where an ``account`` command takes a password from: a file, or the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from common.errors import UsageError


def password_from(file: Path | None) -> str:
    """The content of ``file``, without the end of its line, or what is typed twice. Raises UsageError when there is neither."""
    if file is not None:
        try:
            return file.read_text(encoding="utf-8").rstrip("\r\n")
        except FileNotFoundError:
            raise UsageError(f"password file '{file}' does not exist", "Give a file with one line") from None
        except UnicodeDecodeError:
            raise UsageError(f"password file '{file}' is not UTF-8 text", "Give a file with one line") from None
    if not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask for the password", "Give --password-file")
    asked: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return asked
