from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.ingest.advice import ADVICE
from client.ingest.cohort import EXAMPLE
from client.ingest.records import EXPLANATIONS, Reason, Skip
from client.ingest.report import (
    ClassCount,
    FileCounts,
    IngestReport,
    account,
    class_counts,
    explain,
    label_problems,
    study_identity,
)
from common.errors import DataError


@pytest.fixture
def report(make_study):
    skips = [Skip(f"Secret^{n}/x", Reason.NOT_CT, "MR Image Storage") for n in range(3)]
    skips += [Skip("Secret^9/y", Reason.NO_LABEL), Skip("a.zip", Reason.ARCHIVE)]
    return IngestReport(
        study=study_identity(make_study()),
        files=account(skips, frozenset({"1", "2"}), 7, {"new": 7, "changed": 0, "removed": 0, "unchanged": 0}),
        series=2,
        corrected={"gantry tilt": 1},
        chosen_by={"only series": 2},
        studies=1,
        patients=1,
        held_out=0,
        examples=9,
        classes={"no": ClassCount(9, 1, 0), "yes": ClassCount(0, 0, 0)},
        labels={"source": "table", "level": "patient", "rows": 1, "data_without_row": 1},
        distributions={"vendor": {"GE": 2}},
        seconds=1.26,
        skips=tuple(skips),
    )


def test_the_json_adds_up_and_names_no_path(report):
    content = json.loads(report.to_json())
    files = content["files"]
    assert files["total"] == files["accepted"] + sum(files["refused"].values()) == 7
    assert files["refused"] == {"archive": 1, "no-label": 1, "not-ct": 3}
    assert files["details"] == {"not-ct": [{"detail": "MR Image Storage", "files": 3}]}
    assert (files["archives"], files["since_last_scan"]["new"]) == (1, 7)
    assert content["series"] == {"accepted": 2, "corrected": {"gantry tilt": 1}, "chosen_by": {"only series": 2}}
    assert content["patients"] == {"accepted": 1, "held_out": 0}
    assert content["classes"]["no"] == {"examples": 9, "patients": 1, "held_out": 0}
    assert content["seconds"] == 1.3
    for text in (report.to_json(), "\n".join(report.lines()), repr(report)):
        assert "Secret" not in text
        assert "a.zip" not in text


def test_a_report_is_read_back_as_it_was(report):
    again = IngestReport.from_json(report.to_json())
    assert again == dataclasses.replace(report, seconds=1.3)
    assert again.skips == ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', "null", "\udcff"])
def test_a_damaged_report_is_one_line(text):
    with pytest.raises(DataError, match="ingest report is damaged"):
        IngestReport.from_json(text.encode("utf-8", "surrogateescape"))


def test_a_report_that_does_not_add_up_is_refused(report):
    content = json.loads(report.to_json())
    content["files"]["accepted"] += 1
    with pytest.raises(DataError, match="damaged"):
        IngestReport.from_json(json.dumps(content))
    with pytest.raises(ValueError, match="8 files are not 2 accepted and 5"):
        FileCounts(8, 2, {"no-label": 5})


def test_a_file_of_many_frames_has_one_row(make_study):
    skips = [
        Skip("partly used", Reason.NOT_AXIAL),
        *[Skip("many", Reason.NO_GEOMETRY)] * 2,
        Skip("many", Reason.NO_LABEL),
    ]
    counts = account(skips, frozenset({"partly used"}), 2)
    assert counts.refused == {"no-geometry": 1}
    assert counts.accepted == 1


PATHS = st.integers(0, 30).map(str)
SKIPS = st.lists(st.builds(Skip, PATHS, st.sampled_from(Reason), st.sampled_from(["", "a", "b"])), max_size=80)


@given(skips=SKIPS, used=st.frozensets(PATHS))
def test_every_source_is_in_exactly_one_row(skips, used):
    sources = used | {skip.path for skip in skips}
    counts = account(skips, used, len(sources))
    assert counts.total == counts.accepted + sum(counts.refused.values()) == len(sources)
    for code, found in counts.details.items():
        assert sum(files for _, files in found) <= counts.refused[code]
    if sources:
        with pytest.raises(ValueError, match="files are not"):
            account(skips, used, len(sources) - 1)


def test_every_reason_is_explained_and_advice_is_for_reasons():
    assert set(EXPLANATIONS) == set(Reason)
    assert set(ADVICE) < set(Reason)
    assert explain("no-label") == EXPLANATIONS[Reason.NO_LABEL]
    assert explain("of-another-version") == "of-another-version"


def test_classes_are_counted_in_examples_and_patients():
    held_out = np.array([True, False, True])
    examples = np.zeros(5, EXAMPLE)
    examples["patient"], examples["label"] = [0, 0, 1, 1, 2], [0, 0, 0, 1, 1]
    counts = class_counts(examples, held_out, ("a", "b", "c"))
    assert counts == {"a": ClassCount(3, 2, 1), "b": ClassCount(2, 2, 1), "c": ClassCount(0, 0, 0)}


def test_trouble_with_labels_is_a_sentence_each():
    labels = {
        "level": "study",
        "rows_without_data": {"count": 2, "lines": [3, 4]},
        "data_without_row": 1,
        "conflicting": {"count": 1, "lines": [5, 6]},
        "unknown_classes": {"rows": 3, "values": [{"value": "maybe", "rows": 3}]},
        "repeated_rows": 1,
    }
    assert label_problems(labels) == [
        "2 rows of the label table without data here (lines 3, 4)",
        "1 study without a label",
        "1 study with two different classes, left out (lines 5, 6)",
        "3 rows with a class that the study does not have, left out: 'maybe' (3)",
        "1 row of the label table repeated, counted once",
    ]
    assert label_problems({"level": "slice", "rows_without_data": {"count": 0, "lines": []}}) == []


def test_the_terminal_shows_the_same_in_short(report):
    text = "\n".join(report.lines())
    assert "1 patient (0 held out), 1 study, 2 series, 9 examples: no 9, yes 0" in text
    assert "2 of 7 files used" in text
    assert "3 left out: not-ct (" in text
    assert "MR Image Storage: 3" in text
    assert "1 patient without a label" in text
    assert "reused" in dataclasses.replace(report, reused=True).lines()[0]
