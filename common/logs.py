"""A daemon's own log: JSON lines without words of others, so that no patient's name can get into it.

A line has ``time`` (UTC), ``level``, ``event`` and fields from ``FIELDS``. A field is a number or one plain word, as
codes, digests and class names are; any other text, and so any sentence, path or name, is written as "withheld". 10 MB
a file, mode 0600, five older ones beside it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from common.clock import now

LOG_BYTES = 10 << 20
LOGS_KEPT = 5
FIELDS = frozenset(
    {"service", "process", "exit", "wait", "seconds", "kind", "study", "round", "status", "code", "error", "where"}
)
WITHHELD = "withheld"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}", re.ASCII)

Level = Literal["info", "warning", "error"]


class JsonLog:
    """The log in ``path``, whose folder exists. A full disk loses lines and stops nothing."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = now) -> None:
        self._file = _Private(path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8", delay=True)
        self._clock = clock

    def write(self, event: str, level: Level = "info", **fields: str | float | None) -> None:
        """Add a line. Raises KeyError for a field that is not one of ``FIELDS``."""
        for name in fields:
            if name not in FIELDS:
                raise KeyError(name)
        time = self._clock().astimezone(UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": level, "event": event} | {name: _plain(value) for name, value in fields.items()}
        self._file.handle(logging.makeLogRecord({"msg": json.dumps(line)}))

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # what a full disk did not take is lost
            self._file.close()


def place_of(error: BaseException) -> str:
    """Where an exception was raised, as module-file:line; never its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _plain(value: str | float | None) -> str | float | None:
    if isinstance(value, str):
        return value if value == "" or _WORD.fullmatch(value) else WITHHELD
    return value


class _Private(RotatingFileHandler):
    """A rotating file of mode 0600 whose trouble is nobody's."""

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(open(self.baseFilename, "ab", opener=_private), encoding=self.encoding)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: what logging would print goes where nobody looks."""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
