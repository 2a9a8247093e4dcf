"""The label table: one row an id, a class in one column.

``labels.csv`` is UTF-8 (a byte-order mark is fine), comma separated, with a header line. Messages
name lines, never patients.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from common.errors import DataError
from common.study import Task

ID_COLUMNS = {"patient": "patient_id", "study": "study_uid", "series": "series_uid", "slice": "sop_uid"}
"""The column that holds the id, by ``task.label_level``."""


def read_table(path: Path) -> bytes:
    """The bytes of the label table. Raises DataError if it is missing or can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"label table '{path}' does not exist", "Set data.labels in site.toml to a CSV file") from None
    except OSError as error:
        raise DataError(f"label table '{path}' can't be read ({error.strerror})", "Check its owner and mode") from None


def parse_labels(content: bytes, task: Task, source: str) -> dict[str, int]:
    """Class index by id. Raises DataError naming ``source``, line, value and what was expected."""
    id_column, label_column = ID_COLUMNS[task.label_level], task.label_column
    rows = _rows(content, source)
    header = [name.strip() for name in rows[0][1]] if rows else []
    for name in (id_column, label_column):
        if header.count(name) != 1:
            many = "more than once" if name in header else "not at all"
            raise DataError(
                f"label table '{source}' line 1: column '{name}' is there {many} (found {', '.join(header) or 'nothing'})",
                f"Expected a comma-separated table with the columns '{id_column}' and '{label_column}'",
            )
    places = header.index(id_column), header.index(label_column)
    classes = {value: index for index, value in enumerate(task.values)}
    labels: dict[str, int] = {}
    lines: dict[str, int] = {}
    for line, cells in rows[1:]:
        identifier, value = _cells(cells, len(header), places, f"label table '{source}' line {line}")
        if value not in classes:
            raise DataError(
                f"label table '{source}' line {line}: {label_column} = '{value}' is no class of the study",
                f"Expected one of: {', '.join(task.values)}",
            )
        if identifier in lines:
            raise DataError(
                f"label table '{source}': lines {lines[identifier]} and {line} have the same {id_column}",
                f"Expected one line for each {task.label_level}; remove one of the two",
            )
        labels[identifier], lines[identifier] = classes[value], line
    if not labels:
        raise DataError(f"label table '{source}' has no rows", f"Expected one line for each {task.label_level}")
    return labels


def _rows(content: bytes, source: str) -> list[tuple[int, list[str]]]:
    """Line number and cells of every line that is not blank."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"label table '{source}' line {line} is not UTF-8", "Save the table as UTF-8 CSV") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise DataError(f"label table '{source}' line {reader.line_num}: {error}", "Save the table as CSV") from None


def _cells(cells: list[str], width: int, places: tuple[int, int], where: str) -> tuple[str, str]:
    """Id and label of one row, without the blanks around them."""
    if len(cells) != width:
        raise DataError(f"{where} has {len(cells)} cells; expected {width}, as in line 1", "Correct the line")
    identifier, value = (cells[place].strip() for place in places)
    if not identifier:
        raise DataError(f"{where} has an empty id", "Fill in the id or remove the line")
    return identifier, value
