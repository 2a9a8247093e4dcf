from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.labels import ID_COLUMNS, Labels, parse_labels, read_table
from common.errors import DataError
from common.study import Task

TASK = Task(classes=("normal", "burst"), label_values=("0", "1"))


def test_labels_become_class_indices():
    text = "﻿age,label,patient_id\r\n70,1, A \r\n\r\n50,0,B\r\n"
    assert parse_labels(text.encode(), TASK, "t").classes == {"A": 1, "B": 0}


@pytest.mark.parametrize("level", ID_COLUMNS)
def test_the_id_column_follows_the_level_of_the_label(level):
    task = Task(classes=("0", "1"), label_level=level)
    assert parse_labels(f"{ID_COLUMNS[level]},label\nx,1\n".encode(), task, "t").classes == {"x": 1}
    with pytest.raises(DataError, match=f"'{ID_COLUMNS[level]}' is there not at all"):
        parse_labels(b"id,label\nx,1\n", task, "t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: column 'patient_id' is there not at all"),
        (b"patient_id,label\n", "has no rows"),
        (b"patient_id,label\n\n ,\n", "has no rows"),
        (b"patient_id|label\nA|1\n", "found patient_id|label"),
        (b"patient_id,tumour\nA,1\n", "column 'label' is there not at all"),
        (b"patient_id,label,label\nA,1,0\n", "'label' is there more than once"),
        (b"patient_id,label\nA,3\nB,2\n", "line 2: label = '3' is no class of the study. Expected one of: 0, 1"),
        (b"patient_id,label\nA,\n", "line 2: label = '' is no class"),
        (b"patient_id,label\n,1\n", "line 2 has an empty id"),
        (b"patient_id,label\nA,1\nB,9\nA,0\n", "lines 2 and 4 have the same patient_id"),
        (b"patient_id,label\nA,1\nA,?\n", "lines 2 and 3 have the same patient_id"),
        (b"patient_id,label\nA\n", "line 2 has 1 cells; expected 2"),
        (b"patient_id,label\nA,1,x\n", "line 2 has 3 cells; expected 2"),
        (b"patient_id,label\nA,1\nM\xfcller,0\n", "line 3 is not UTF-8"),
        (b'patient_id,label\n"A,1\n', "line"),
        (b"patient_id,label\nA\x00,1\n" + b"x" * 200_000, "line"),
    ],
)
def test_a_table_that_cant_be_used_says_where_and_what(content, message):
    with pytest.raises(DataError) as caught:
        parse_labels(content, TASK, "labels.csv")
    assert message in str(caught.value)
    assert "'labels.csv'" in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing\.csv' does not exist"):
        read_table(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="can't be read"):
        read_table(tmp_path)


CELL = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=12)
IDS = st.lists(CELL.map(str.strip).filter(bool), unique=True, min_size=1, max_size=20)


@settings(deadline=None)
@given(ids=IDS, data=st.data(), bom=st.booleans())
def test_every_table_that_csv_writes_is_read_back(ids, data, bom):
    classes = [data.draw(st.integers(0, 1)) for _ in ids]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(["note", "patient_id", "label"])
    writer.writerows(zip([data.draw(CELL) for _ in ids], ids, classes, strict=True))
    content = buffer.getvalue().encode("utf-8-sig" if bom else "utf-8")
    assert parse_labels(content, TASK, "t").classes == dict(zip(ids, classes, strict=True))


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_labels_or_a_data_error(content):
    try:
        labels = parse_labels(b"patient_id,label\nA,1\n" + content, TASK, "t")
    except DataError:
        return
    assert labels.classes.get("A", 1) == 1
    assert set(labels.lines) >= set(labels.classes) | labels.conflicting >= {"A"}


@pytest.mark.parametrize("separator", [";", "\t", ","])
def test_the_separator_is_found_from_the_header_line(separator):
    text = '\nnote,patient_id,label\n"a,b;c\td",A,1\n'.replace(",", separator, 2)
    text = text.replace('",A,1', f'"{separator}A{separator}1')
    assert parse_labels(text.encode(), TASK, "t").classes == {"A": 1}


def test_a_header_line_alone_decides_on_the_separator():
    assert parse_labels(b"patient_id;label\nA,B;1\n", TASK, "t").classes == {"A,B": 1}
    assert parse_labels(b"patient_id,label;x\nA,1\n", Task(classes=("0", "1"), label_column="label;x"), "t").classes


TABLE = b"patient_id,label\nA,1\nA,1\nB,0\nB,1\nC,maybe\nD,0\nE,maybe\nE,1\nF,A\nG,\x1b[2J\nH," + b"x" * 60 + b"\n"


def test_rows_that_cant_be_used_are_left_out_and_counted():
    labels = parse_labels(TABLE, TASK, "t")
    assert labels.classes == {"A": 1, "D": 0}
    assert labels.conflicting == {"B", "E"}
    assert labels.notes["rows"] == 11
    assert labels.notes["repeated_rows"] == 1
    assert labels.notes["conflicting"] == {"count": 2, "lines": [4, 5, 8, 9]}
    unknown = labels.notes["unknown_classes"]
    assert unknown["rows"] == 5
    shown = {one["value"]: one["rows"] for one in unknown["values"]}
    assert shown == {"maybe": 2, "?[2J": 1, "x" * 39 + "…": 1}  # 'A' is an id: it names a patient


def test_a_row_of_another_class_than_the_study_has_still_makes_an_id_conflicting():
    labels = parse_labels(b"patient_id,label\nA,1\nA,?\nB,1\n", TASK, "t")
    assert (labels.classes, labels.conflicting) == ({"B": 1}, {"A"})


def test_what_has_no_counterpart_is_counted_on_both_sides(make_series):
    labels = parse_labels(TABLE, TASK, "t")
    series = [make_series(patient_id=name) for name in ("A", "B", "E", "X", "Y", "Y")]
    report = labels.report(series, TASK)
    assert report["rows_without_data"] == {"count": 5, "lines": [6, 7, 10, 11, 12]}
    assert report["data_without_row"] == 2
    assert report["level"] == "patient"
    text = json.dumps(report)
    for name in ("A", "B", "X"):
        assert f'"{name}"' not in text


@pytest.mark.parametrize(("level", "expected"), [("patient", 1), ("study", 1), ("series", 2), ("slice", 8)])
def test_data_without_a_row_are_counted_at_the_level_of_the_label(make_series, level, expected):
    task = Task(classes=("0", "1"), label_level=level)
    series = [make_series(study_uid="s"), make_series(study_uid="s")]
    labels = Labels({"other": 1}, frozenset(), {"other": 2})
    report = labels.report(series, task)
    assert report["data_without_row"] == expected
    assert report["rows_without_data"] == {"count": 1, "lines": [2]}
