"""A run's figures for TensorBoard and MLflow, where ``tracking`` of ``coordinator.toml`` names them.

They go to ``tracking/`` of the run folder, as files that either program opens; nothing goes over a network, and MLflow's
telemetry is off. Nothing is written that is not in ``results.json``, which stays the truth: when writing fails the
event log says so once, and the run goes on without.

Figures of a round are at its number, those of a model at the number of rounds that it had.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from common.errors import CoordinatorError
from server.results import Metrics, Results, RoundRecord
from server.run_folder import RunFolder

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""What may be named, and the package that it needs."""
_METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auroc", "log_loss", "brier", "calibration_error")
Point = tuple[str, float, int]
"""A figure's name, its value, and the round that it belongs to."""


class Writer(Protocol):
    """One of the two programs' files."""

    def write(self, points: Sequence[Point]) -> None:
        """Add these points."""

    def close(self) -> None:
        """Flush, and say that the run is over."""


class Tracking:
    """Writes to all that ``names`` names; does nothing where it names none. Raises CoordinatorError as ``require``."""

    def __init__(self, names: Sequence[str], folder: RunFolder, study: str) -> None:
        require(names)
        self._folder = folder
        place, run = folder.root / "tracking", folder.root.name
        self._open = [partial(_WRITERS[name], place / name, study, run) for name in dict.fromkeys(names)]
        self._writers: list[Writer] | None = None

    def round(self, record: RoundRecord) -> None:
        """The figures of a round that is complete."""
        self._attempt(lambda writer: writer.write(points_of_round(record)))

    def finish(self, results: Results) -> None:
        """The figures of the final model."""
        self._attempt(lambda writer: writer.write(points_of_end(results)))
        self._attempt(lambda writer: writer.close())

    def _attempt(self, work: Callable[[Writer], None]) -> None:
        try:
            if self._writers is None:
                self._writers = [make() for make in self._open]
            for writer in self._writers:
                work(writer)
        except Exception as error:  # other people's code and files: the run is worth more than its curves
            self._open, self._writers = [], []
            self._folder.event("tracking-failed", reason=f"{type(error).__name__}: {error}")


def require(names: Sequence[str]) -> None:
    """Raise CoordinatorError unless the packages of ``names`` are installed."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise CoordinatorError(
                f"coordinator.toml: tracking names '{name}', and the package '{PACKAGES[name]}' is not installed",
                "Install fedct with its extra 'tracking', or remove the name",
            )


def points_of_round(record: RoundRecord) -> list[Point]:
    """Traffic, time and participation of a round, and what was found of the model that it began with."""
    answered = sum(part.status == "ok" for part in record.participation)
    points: list[Point] = [
        ("round/seconds", record.seconds, record.round),
        ("round/bytes_down", record.bytes_down, record.round),
        ("round/bytes_up", record.bytes_up, record.round),
        ("round/updates", answered, record.round),
    ]
    return points + _of(record.metrics, record.model_round or 0)


def points_of_end(results: Results) -> list[Point]:
    """What was found of the final model, and the most that one site was charged."""
    last = len(results.rounds)
    charged = [site.epsilon for site in results.sites if site.epsilon is not None]
    points: list[Point] = [("privacy/most_epsilon", max(charged), last)] if charged else []
    return _of(results.final.pooled, last) + points


def _of(metrics: Metrics | None, step: int) -> list[Point]:
    if metrics is None:
        return []
    values = [(name, getattr(metrics, name).value) for name in _METRICS]
    return [(f"model/{name}", value, step) for name, value in values if value is not None]


class _TensorBoard:
    def __init__(self, folder: Path, _study: str, _run: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(log_dir=str(folder))

    def write(self, points: Sequence[Point]) -> None:
        for name, value, step in points:
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run that was broken off is taken up again: it is the one of this name."""

    def __init__(self, folder: Path, study: str, run: str) -> None:
        # MLflow reads them when it is imported: no telemetry, and plain files, which it asks to be allowed.
        os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true")
        from mlflow.tracking import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=folder.absolute().as_uri())
        known = self._client.get_experiment_by_name(study)
        experiment = known.experiment_id if known else self._client.create_experiment(study)
        before = self._client.search_runs([experiment])
        self._run = before[0].info.run_id if before else self._client.create_run(experiment, run_name=run).info.run_id

    def write(self, points: Sequence[Point]) -> None:
        for name, value, step in points:
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


_WRITERS: dict[str, Callable[[Path, str, str], Writer]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow}
