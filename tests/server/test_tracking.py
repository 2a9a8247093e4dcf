"""TensorBoard and MLflow as their own readers see what was written."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime

import pytest
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.errors import CoordinatorError
from common.metrics import Counts
from server import tracking
from server.evaluation import evaluate
from server.results import FinalMetrics, Participation, PrivacySummary, Results, RoundRecord, SiteSummary
from server.run_folder import RunFolder
from server.tracking import Tracking


def metrics(right: int):
    """Ten cases of which so many are right."""
    said = [[0.9, 0.1] if n < right else [0.1, 0.9] for n in range(10)]
    return evaluate(Counts.of([0] * 10, said, 8), ["a", "b"])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out" / "run").mkdir(parents=True)
    return RunFolder(tmp_path / "out")


def record(number, right=None):
    return RoundRecord(
        round=number,
        seconds=1.5,
        bytes_down=100,
        bytes_up=10 * number,
        participation=(Participation(site="a", status="ok"), Participation(site="b", status="late")),
        model_round=number - 1 if right is not None else None,
        metrics=metrics(right) if right is not None else None,
    )


@pytest.fixture
def results(small_study):
    study, now = small_study(), datetime(2026, 3, 4, tzinfo=UTC)
    return Results(
        study_name=study.name,
        study_digest=study.digest,
        study=study.model_dump(mode="json"),
        started=now,
        finished=now,
        seed=0,
        versions={},
        outcome="finished",
        sites=(SiteSummary(site="a", rounds_ok=2, rounds_missed=0, epsilon=1.25, delta=1e-3, evaluation="exact"),),
        rounds=(record(1), record(2, 6)),
        final=FinalMetrics(pooled=metrics(9)),
        privacy=PrivacySummary(on=True),
    )


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refused(*_):
        raise AssertionError("it asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refused)


EXPECTED = {
    "round/bytes_up": {1: 10, 2: 20},
    "round/updates": {1: 1, 2: 1},
    "model/accuracy": {1: 0.6, 2: 0.9},
    "privacy/most_epsilon": {2: 1.25},
}


def tensorboard_reads(folder):
    reader = EventAccumulator(str(folder.root / "tracking" / "tensorboard"))
    reader.Reload()
    return {name: {event.step: event.value for event in reader.Scalars(name)} for name in EXPECTED}


def mlflow_reads(folder):
    client = MlflowClient(tracking_uri=(folder.root / "tracking" / "mlflow").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert run.info.status == "FINISHED"
    return {name: {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)} for name in EXPECTED}


@pytest.mark.parametrize(("name", "read"), [("tensorboard", tensorboard_reads), ("mlflow", mlflow_reads)])
def test_the_programs_read_every_round_once_also_of_a_run_that_was_taken_up_again(folder, results, name, read):
    Tracking([name], folder, "small").round(results.rounds[0])  # and then the process was killed
    second = Tracking([name], folder, "small")
    second.round(results.rounds[1])
    second.finish(results)
    assert read(folder) == {name: pytest.approx(values) for name, values in EXPECTED.items()}


def test_without_a_name_nothing_is_written(folder, results):
    silent = Tracking([], folder, "small")
    silent.round(results.rounds[0])
    silent.finish(results)
    assert not (folder.root / "tracking").exists()


def test_a_package_that_is_missing_is_said_at_once(folder, monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(CoordinatorError, match=r"tracking names 'mlflow'.*not installed"):
        Tracking(["mlflow"], folder, "small")


def test_when_writing_fails_the_event_log_says_so_once_and_the_run_goes_on(folder, results):
    (folder.root / "tracking").write_text("a file where a folder should be")
    broken = Tracking(["tensorboard", "mlflow"], folder, "small")
    for one in results.rounds:
        broken.round(one)
    broken.finish(results)
    events = [json.loads(line) for line in folder.events_file.read_text().splitlines()]
    assert [event["event"] for event in events] == ["tracking-failed"]
