from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common import logs
from common.logs import JsonLog, place_of

NAME = "DOE^JANE 1970-01-01"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def log(tmp_path):
    made = JsonLog(tmp_path / "a.log", lambda: NOW)
    yield made
    made.close()


def lines(folder):
    return [json.loads(line) for line in (folder / "a.log").read_text().splitlines()]


def test_a_line_is_json_with_time_level_and_event(log, tmp_path):
    log.write("task-ended", "error", exit=-9, seconds=1.5, code="budget-exceeded", study="a" * 64, round=3)
    expected = {"time": "2026-01-02T03:04:05.000+00:00", "level": "error", "event": "task-ended"}
    expected |= {"exit": -9, "seconds": 1.5, "code": "budget-exceeded", "study": "a" * 64, "round": 3}
    assert lines(tmp_path) == [expected]
    assert (tmp_path / "a.log").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text", [NAME, "Doe, Jane", "DOE^JANE", "/data/doe/1.dcm", "jane doe", "Jané", "a" * 101, "a\nb"]
)
def test_text_that_could_be_a_name_a_path_or_a_sentence_is_withheld(log, tmp_path, text):
    for field in sorted(logs.FIELDS):
        log.write("x", **{field: text})
    written = (tmp_path / "a.log").read_text()
    assert text not in written
    assert all(line[field] == "withheld" for line, field in zip(lines(tmp_path), sorted(logs.FIELDS), strict=True))


def test_a_field_that_nobody_judged_is_refused(log):
    with pytest.raises(KeyError, match="patient"):
        log.write("x", patient="1")


def test_at_ten_megabytes_it_begins_anew_and_keeps_five_older_ones(tmp_path, monkeypatch):
    assert logs.LOG_BYTES == 10 << 20
    monkeypatch.setattr(logs, "LOG_BYTES", 300)
    log = JsonLog(tmp_path / "a.log", lambda: NOW)
    for number in range(60):
        log.write("x", round=number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", *(f"a.log.{n}" for n in range(1, 6))]
    assert all(path.stat().st_size <= 300 and path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())
    assert lines(tmp_path)[-1]["round"] == 59


def test_a_disk_that_takes_no_more_stops_nothing_and_prints_nothing(capsys):
    log = JsonLog(Path("/dev/full"), lambda: NOW)
    log.write("x")
    log.close()
    assert capsys.readouterr() == ("", "")


def test_of_an_exception_only_its_place_is_told():
    def fail():
        raise ValueError(NAME)

    with pytest.raises(ValueError, match="DOE") as caught:
        fail()
    assert place_of(caught.value).startswith("test_logs.py:")
    assert NAME not in place_of(caught.value)
    assert place_of(ValueError()) == ""
