from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.labels import ID_COLUMNS, parse_labels, read_table
from common.errors import DataError
from common.study import Task

TASK = Task(classes=("normal", "burst"), label_values=("0", "1"))


def test_labels_become_class_indices():
    text = "﻿age,label,patient_id\r\n70,1, A \r\n\r\n50,0,B\r\n"
    assert parse_labels(text.encode(), TASK, "t") == {"A": 1, "B": 0}


@pytest.mark.parametrize("level", ID_COLUMNS)
def test_the_id_column_follows_the_level_of_the_label(level):
    task = Task(classes=("0", "1"), label_level=level)
    assert parse_labels(f"{ID_COLUMNS[level]},label\nx,1\n".encode(), task, "t") == {"x": 1}
    with pytest.raises(DataError, match=f"'{ID_COLUMNS[level]}' is there not at all"):
        parse_labels(b"id,label\nx,1\n", task, "t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: column 'patient_id' is there not at all"),
        (b"patient_id,label\n", "has no rows"),
        (b"patient_id,label\n\n ,\n", "has no rows"),
        (b"patient_id;label\nA;1\n", "found patient_id;label"),
        (b"patient_id,tumour\nA,1\n", "column 'label' is there not at all"),
        (b"patient_id,label,label\nA,1,0\n", "'label' is there more than once"),
        (b"patient_id,label\nA,1\nB,2\n", "line 3: label = '2' is no class of the study. Expected one of: 0, 1"),
        (b"patient_id,label\nA,\n", "line 2: label = '' is no class"),
        (b"patient_id,label\n,1\n", "line 2 has an empty id"),
        (b"patient_id,label\nA,1\nB,0\nA,0\n", "lines 2 and 4 have the same patient_id"),
        (b"patient_id,label\nA,1\nA,1\n", "lines 2 and 3 have the same patient_id"),
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
    assert parse_labels(content, TASK, "t") == dict(zip(ids, classes, strict=True))


@settings(deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_labels_or_a_data_error(content):
    try:
        labels = parse_labels(b"patient_id,label\nA,1\n" + content, TASK, "t")
    except DataError:
        return
    assert labels["A"] == 1
