"""The folder of one run at the coordinator, and its event log.

::

    OUT/
      results.json  report.html  model.safetensors     what the user came for
      model-card.md  model-card.json  provenance.json
      run/study.json          the canonical study
      run/initial.safetensors      the initial weights, when the study names a file
      run/launch.json         what the run was started with, and Flower's number of its newest attempt
      run/events.jsonl        one JSON line an event, as it happens: what progress displays follow
      run/rounds/, run/checkpoints/   what was complete (server.checkpoints)
      run/lock                held by the process that runs the study
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.errors import RunError, StudyError
from common.files import write_atomic
from common.model_card import CARD
from common.provenance import PROVENANCE
from common.study import Study, study_from_json

RUN_VARIABLE = "FEDCT_RUN"  # where the ServerApp looks for run folders
LOCK_SECONDS = 120.0  # a process whose run Flower has given up notices within a minute


@dataclass(frozen=True)
class Launch:
    """What an attempt at a run was started with. ``flower_run``: Flower's number of it."""

    seed: int
    flower_run: int


@dataclass(frozen=True)
class RunFolder:
    """Paths and events of a run; ``root`` is OUT."""

    root: Path

    @property
    def inner(self) -> Path:
        return self.root / "run"

    @property
    def events_file(self) -> Path:
        return self.inner / "events.jsonl"

    @property
    def initial_file(self) -> Path | None:
        """The initial weights of this run; None when the study names no file."""
        path = self.inner / "initial.safetensors"
        return path if path.exists() else None

    @property
    def results_file(self) -> Path:
        return self.root / "results.json"

    @property
    def report_file(self) -> Path:
        return self.root / "report.html"

    @property
    def model_file(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def card_file(self) -> Path:
        return self.root / "model-card.md"

    @property
    def card_json(self) -> Path:
        return self.root / CARD

    def prepare(self, study: Study, base: Path) -> None:
        """Make the folder for a new run; results of an earlier run are removed first.

        ``base``: the study file's folder, where a relative ``model.initial`` starts. Raises StudyError
        when that file can't be read.
        """
        self.inner.mkdir(parents=True, exist_ok=True)
        self.remove_results()
        for path in (self.events_file, self.inner / "initial.safetensors", self.inner / "launch.json"):
            path.unlink(missing_ok=True)
        for name in ("rounds", "checkpoints"):
            shutil.rmtree(self.inner / name, ignore_errors=True)
        write_atomic(self.inner / "study.json", study.canonical_json().encode())
        if study.model.initial_is_file:
            write_atomic(self.inner / "initial.safetensors", _read_weights(base / study.model.initial))

    def study(self, digest: str = "") -> Study:
        """The study of this run. Raises RunError unless it has this digest, if one is given."""
        study = study_from_json((self.inner / "study.json").read_text(encoding="utf-8"))
        if digest and study.digest != digest:
            raise RunError(f"the study in '{self.inner}' is not the one that was launched")
        return study

    def note_launch(self, launch: Launch) -> None:
        """Keep what an attempt was started with. OSError passes through."""
        write_atomic(self.inner / "launch.json", json.dumps(asdict(launch)).encode())

    def launch(self) -> Launch:
        """What the newest attempt was started with. Raises RunError when it was never noted."""
        path = self.inner / "launch.json"
        try:
            return Launch(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            raise RunError(f"'{path}' is missing or damaged", "Launch the study anew") from None

    def remove_results(self) -> None:
        """Remove what an earlier run or attempt said of its end."""
        made = (self.results_file, self.model_file, self.card_file, self.card_json, self.report_file)
        for path in (*made, self.root / PROVENANCE):
            path.unlink(missing_ok=True)

    def event(self, kind: str, /, **details: Any) -> None:
        """Append an event with the time of day; a reader sees whole lines only."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self.events_file.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # whoever wrote last was killed: its half line must not swallow this one
                    file.write(b"\n")
            file.write(json.dumps({"event": kind, "time": now, **details}).encode() + b"\n")

    def events(self, position: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The events whose lines begin at byte ``position`` or after and are whole, and the position after them.

        A line that was cut off when its writer was killed is passed over.
        """
        lines, position = self.lines(position)
        return list(parsed(lines)), position

    def lines(self, position: int = 0) -> tuple[list[bytes], int]:
        """The lines of ``events``, not parsed; a line of an event begins with its ``event_start``."""
        try:
            with self.events_file.open("rb") as file:
                file.seek(position)
                data = file.read()
        except FileNotFoundError:
            return [], position
        end = data.rfind(b"\n") + 1
        return data[:end].splitlines(), position + end

    def busy(self) -> bool:
        """Whether a process works in the folder."""
        try:
            with (self.inner / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # freed with the file; who comes now tries again
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    @contextmanager
    def alone(self, seconds: float = LOCK_SECONDS) -> Iterator[None]:
        """Hold the run's lock, which the system frees when the process ends, however it ends.

        RunError when another process holds it for ``seconds``: two would count rounds twice.
        """
        end = time.monotonic() + seconds
        with (self.inner / "lock").open("ab") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise RunError(
                            f"another process works in '{self.root}'", "Stop it, or wait until it has ended"
                        ) from None
                    time.sleep(0.5)
            yield


def event_start(kind: str) -> bytes:
    """How the line of an event of this kind begins."""
    return json.dumps({"event": kind}).encode().removesuffix(b"}")


def parsed(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """The events of whole lines; what a killed writer left is passed over."""
    for line in lines:
        with suppress(ValueError):
            event: dict[str, Any] = json.loads(line)
            yield event


def _read_weights(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(
            f"model.initial = '{path}' can't be read ({error.strerror})", "Give a safetensors file"
        ) from None
