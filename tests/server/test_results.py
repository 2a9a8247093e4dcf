"""The schema of results.json: round trips, refusals, and its documentation."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from common.errors import UsageError
from common.metrics import Counts
from server import results as schema
from server.evaluation import evaluate, final_metrics
from server.results import Estimate, Participation, PrivacySummary, Results, RoundRecord, read_results, write_results

DOCUMENT = Path(__file__).parents[2] / "docs" / "results.md"
CLASSES = ("no", "yes")


def sample(**changed):
    rng = np.random.default_rng(0)
    high = rng.uniform(size=40)
    counts = Counts.of(rng.integers(2, size=40), np.stack([1 - high, high], axis=1), 16)
    record = RoundRecord(
        round=1,
        seconds=3.5,
        bytes_down=10,
        bytes_up=9,
        participation=(Participation(site="north", status="refused", reason="policy-refused"),),
        model_round=0,
        metrics=evaluate(counts, CLASSES),
        site_metrics={"north": evaluate(Counts.zero(2, 16), CLASSES)},
    )
    content = {
        "study_name": "chest",
        "study_digest": "0" * 64,
        "study": {"task": {"classes": ["no", "yes"]}},
        "started": "2026-01-02T10:00:00+02:00",
        "finished": datetime(2026, 1, 2, 9, 0, tzinfo=UTC),
        "seed": 3,
        "versions": {"fedct": "0.1.0"},
        "outcome": "finished",
        "sites": (),
        "rounds": (record,),
        "final": final_metrics({"north": (counts, 0.0)}, CLASSES),
        "privacy": PrivacySummary(on=False),
    }
    return Results(**(content | changed))


def test_results_go_to_disk_and_back(tmp_path):
    path = tmp_path / "results.json"
    results = sample()
    write_results(results, path)
    assert read_results(path) == results
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


def test_the_file_is_strict_json_with_null_for_what_is_undefined(tmp_path):
    path = tmp_path / "results.json"
    write_results(sample(), path)

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    empty = content["rounds"][0]["site_metrics"]["north"]["accuracy"]
    assert empty == {"value": None, "low": None, "high": None, "hits": 0.0, "cases": 0.0, "note": "no-cases"}


def test_times_are_in_utc():
    assert json.loads(sample().model_dump_json())["started"] == "2026-01-02T08:00:00Z"


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ValidationError, match="timezone"):
        sample(started="2026-01-02T10:00:00")


def test_not_a_number_is_refused():
    with pytest.raises(ValidationError, match="finite"):
        Estimate(value=math.nan)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("format", 2, "format = 2"),
        ("extra", 1, "unknown key"),
        ("outcome", "good", "outcome = 'good'"),
        ("study_digest", "abc", "study_digest = 'abc'"),
        ("seed", "many", "seed = 'many'"),
    ],
)
def test_a_file_that_is_not_this_format_is_refused_by_key_and_value(tmp_path, key, value, named):
    path = tmp_path / "results.json"
    content = json.loads(sample().model_dump_json())
    path.write_text(json.dumps(content | {key: value}), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        read_results(path)
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


def test_a_missing_or_torn_file_is_one_line(tmp_path):
    path = tmp_path / "results.json"
    with pytest.raises(UsageError, match="does not exist"):
        read_results(path)
    path.write_text('{"format": 1,', encoding="utf-8")
    with pytest.raises(UsageError, match="JSON"):
        read_results(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_results(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_results(sample(), path)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("common.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_results(sample(seed=4), path)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["results.json"]


MODELS = [
    schema.Results, schema.SiteSummary, schema.RoundRecord, schema.Participation, schema.Contribution, schema.Metrics, schema.ClassMetrics,
    schema.Estimate, schema.FinalMetrics, schema.RocCurve, schema.ReliabilityCurve, schema.ReliabilityPoint,
    schema.OperatingPoint, schema.Subgroup, schema.Band, schema.Comparison, schema.PrivacySummary,
]  # fmt: skip


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_is_documented(model):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert model.__name__ in text
    home = "FinalMetrics" if model is schema.RocCurve else model.__name__
    section = re.split(rf"^#+ {home}$", text, flags=re.MULTILINE)[1].split("\n#")[0]
    missing = [name for name in model.model_fields if f"`{name}`" not in section]
    assert missing == []


def test_no_model_is_left_out_of_the_documentation():
    public = {
        name for name, item in vars(schema).items() if isinstance(item, type) and issubclass(item, schema._Frozen)
    }
    assert public - {"_Frozen"} == {model.__name__ for model in MODELS}
