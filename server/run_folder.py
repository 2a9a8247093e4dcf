"""The folder of one run at the coordinator, and its event log.

::

    OUT/
      results.json  report.html  model.safetensors  model-card.md     what the user came for
      run/study.json          the canonical study
      run/initial.safetensors      the initial weights, when the study names a file
      run/events.jsonl        one JSON line an event, as it happens: what progress displays follow
      run/checkpoint.safetensors   the global model after the last complete round
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RunError, StudyError
from common.files import write_atomic
from common.study import Study, study_from_json


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
    def checkpoint_file(self) -> Path:
        return self.inner / "checkpoint.safetensors"

    @property
    def initial_file(self) -> Path | None:
        """The initial weights of this run; None when the study names no file."""
        path = self.inner / "initial.safetensors"
        return path if path.exists() else None

    @property
    def results_file(self) -> Path:
        return self.root / "results.json"

    @property
    def model_file(self) -> Path:
        return self.root / "model.safetensors"

    @property
    def card_file(self) -> Path:
        return self.root / "model-card.md"

    def prepare(self, study: Study, base: Path) -> None:
        """Make the folder for a new run; results of an earlier run are removed first.

        ``base``: the study file's folder, where a relative ``model.initial`` starts. Raises StudyError
        when that file can't be read.
        """
        self.inner.mkdir(parents=True, exist_ok=True)
        old = (self.results_file, self.model_file, self.card_file, self.root / "report.html")
        for path in (*old, self.events_file, self.checkpoint_file, self.inner / "initial.safetensors"):
            path.unlink(missing_ok=True)
        write_atomic(self.inner / "study.json", study.canonical_json().encode())
        if study.model.initial_is_file:
            write_atomic(self.inner / "initial.safetensors", _read_weights(base / study.model.initial))

    def study(self, digest: str) -> Study:
        """The study of this run. Raises RunError unless it has this digest."""
        study = study_from_json((self.inner / "study.json").read_text(encoding="utf-8"))
        if study.digest != digest:
            raise RunError(f"the study in '{self.inner}' is not the one that was launched")
        return study

    def event(self, kind: str, **details: Any) -> None:
        """Append an event; a reader sees whole lines only."""
        with self.events_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": kind, **details}) + "\n")


def _read_weights(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(
            f"model.initial = '{path}' can't be read ({error.strerror})", "Give a safetensors file"
        ) from None
