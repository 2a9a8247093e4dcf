"""The label table: one row an id, a class in one column.

``labels.csv`` is UTF-8 (a byte-order mark is fine) with a header line; cells are separated by commas,
semicolons or tabs, whichever the header line uses. What can't be read as a table is an error; a row
that can't be used is left out and reported. Messages and reports name lines, never patients.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client.ingest.geometry import Series
from common.errors import DataError
from common.study import Task

ID_COLUMNS = {"patient": "patient_id", "study": "study_uid", "series": "series_uid", "slice": "sop_uid"}
"""The column that holds the id, by ``task.label_level``."""
SEPARATORS = (",", ";", "\t")
SHOWN = 20
"""Line numbers that a report names of each kind."""
SHOWN_VALUES = 10
SHOWN_CHARACTERS = 40


@dataclass(frozen=True)
class Labels:
    """Labels that may be used, and what a report says of those that may not.

    ``classes``: class index by id (PatientID, study UID, series UID or ``Header.slice_id``, by the label
    level). ``conflicting``: ids given two different classes; they are in no other. ``lines``: first line
    of every id of the table, usable or not; empty when the labels come from structure sets. ``notes``:
    numbers and line numbers for the report, of the source that made them.
    """

    classes: Mapping[str, int]
    conflicting: frozenset[str] = frozenset()
    lines: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def report(self, series: Iterable[Series], task: Task) -> dict[str, Any]:
        """The report's ``labels``: ``notes``, and what has no counterpart among ``series`` (all that are sound).

        ``rows_without_data`` counts ids of the table, ``data_without_row`` ids of the data, both of ``level``.
        """
        data = set[str]().union(*(series_ids(one, task.label_level) for one in series))
        absent = sorted(line for identifier, line in self.lines.items() if identifier not in data)
        known = self.lines.keys() | self.classes.keys() | self.conflicting
        return dict(self.notes) | {
            "level": task.label_level,
            "rows_without_data": {"count": len(absent), "lines": absent[:SHOWN]},
            "data_without_row": len(data - known),
        }


def series_ids(series: Series, level: str) -> set[str]:
    """The ids of a series at a label level: one, or for ``slice`` one a slice."""
    if level == "slice":
        return {header.slice_id for header in series.headers}
    first = series.headers[0]
    return {{"patient": first.patient_id, "study": first.study_uid, "series": first.series_uid}[level]}


def read_table(path: Path) -> bytes:
    """The bytes of the label table. Raises DataError if it is missing or can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"label table '{path}' does not exist", "Set data.labels in site.toml to a CSV file") from None
    except OSError as error:
        raise DataError(f"label table '{path}' can't be read ({error.strerror})", "Check its owner and mode") from None


def parse_labels(content: bytes, task: Task, source: str) -> Labels:
    """The labels of a table. Raises DataError naming ``source``, line, value and what was expected.

    Rows of one id that agree count once; ids whose rows differ are ``conflicting``; rows with a value
    that is no class of the study are left out. A table without one usable row is an error.
    """
    id_column, label_column = ID_COLUMNS[task.label_level], task.label_column
    rows = _rows(content, source, id_column)
    header = [name.strip() for name in rows[0][1]] if rows else []
    for name in (id_column, label_column):
        if header.count(name) != 1:
            many = "more than once" if name in header else "not at all"
            raise DataError(
                f"label table '{source}' line 1: column '{name}' is there {many} (found {', '.join(header) or 'nothing'})",
                f"Expected a table with the columns '{id_column}' and '{label_column}', separated by commas",
            )
    places = header.index(id_column), header.index(label_column)
    values: dict[str, dict[str, int]] = {}  # of each id: its values, and the line that first gave each
    count = 0
    unknown: Counter[str] = Counter()
    for line, cells in rows[1:]:
        identifier, value = _cells(cells, len(header), places, f"label table '{source}' line {line}")
        values.setdefault(identifier, {}).setdefault(value, line)
        unknown[value] += value not in task.values
        count += 1
    labels = _labels(values, count, unknown, task)
    if not labels.classes:
        raise _nothing_usable(values, task, source)
    return labels


def _labels(values: dict[str, dict[str, int]], rows: int, unknown: Counter[str], task: Task) -> Labels:
    """``values``: of each id, the line of each of its values."""
    classes = {value: index for index, value in enumerate(task.values)}
    conflicting = [identifier for identifier, found in values.items() if len(found) > 1]
    lines = sorted(line for identifier in conflicting for line in values[identifier].values())
    # A value that is also an id would show a patient: the wrong column was named.
    shown = [(value, times) for value, times in unknown.most_common() if times and value not in values]
    return Labels(
        classes={i: classes[v] for i, found in values.items() if len(found) == 1 for v in found if v in classes},
        conflicting=frozenset(conflicting),
        lines={identifier: min(found.values()) for identifier, found in values.items()},
        notes={
            "source": "table",
            "rows": rows,
            "repeated_rows": rows - sum(len(found) for found in values.values()),
            "conflicting": {"count": len(conflicting), "lines": lines[:SHOWN]},
            "unknown_classes": {
                "rows": unknown.total(),
                "values": [{"value": printable(value), "rows": times} for value, times in shown[:SHOWN_VALUES]],
            },
        },
    )


def printable(text: str) -> str:
    """At most 40 characters that can't upset a terminal or a page."""
    clean = "".join(character if character.isprintable() else "?" for character in text)
    return clean if len(clean) <= SHOWN_CHARACTERS else clean[: SHOWN_CHARACTERS - 1] + "…"


def _nothing_usable(values: dict[str, dict[str, int]], task: Task, source: str) -> DataError:
    if not values:
        return DataError(f"label table '{source}' has no rows", f"Expected one line for each {task.label_level}")
    first = next(iter(values.values()))
    value, line = next(iter(first.items()))
    if len(first) > 1:
        lines = " and ".join(str(number) for number in sorted(first.values())[:2])
        return DataError(
            f"label table '{source}' has no usable row: lines {lines} have the same "
            f"{ID_COLUMNS[task.label_level]} and different classes",
            f"Expected one class for each {task.label_level}",
        )
    return DataError(
        f"label table '{source}' has no usable row: line {line}: {task.label_column} = '{printable(value)}' "
        "is no class of the study",
        f"Expected one of: {', '.join(task.values)}",
    )


def _rows(content: bytes, source: str, id_column: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of every line that is not blank."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"label table '{source}' line {line} is not UTF-8", "Save the table as UTF-8 CSV") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_separator(text, id_column))
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(f"label table '{source}' line {reader.line_num}: {error}", "Save the table as CSV") from None


def _separator(text: str, id_column: str) -> str:
    """The first of ``SEPARATORS`` by which the header line has a cell for the id; a comma if none."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    for separator in SEPARATORS:
        cells = next(csv.reader([header], delimiter=separator), [])
        if len(cells) > 1 and id_column in (cell.strip() for cell in cells):
            return separator
    return SEPARATORS[0]


def _cells(cells: list[str], width: int, places: tuple[int, int], where: str) -> tuple[str, str]:
    """Id and label of one row, without the blanks around them."""
    if len(cells) != width:
        raise DataError(f"{where} has {len(cells)} cells; expected {width}, as in line 1", "Correct the line")
    identifier, value = (cells[place].strip() for place in places)
    if not identifier:
        raise DataError(f"{where} has an empty id", "Fill in the id or remove the line")
    return identifier, value
