"""The audit log under tampering, crashes and company."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.audit_log import AuditLog
from client.chain import chain_hash, read_head
from common.errors import FedctError, LedgerError, StorageError, UsageError
from common.study import canonical_json


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog(tmp_path / "audit.log")
    for round_ in (1, 2, 3):
        log.append("release", {"round": round_, "what": "update", "epsilon": 0.5, "simulated": True, "code": None})
    return log


def lines_of(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def test_entries_are_read_back_in_order(log: AuditLog):
    assert [(e.n, e.kind, e.details["round"]) for e in log.read()] == [(i, "release", i) for i in (1, 2, 3)]
    assert log.verify() == 3


def test_an_untouched_site_has_an_empty_log_and_reading_makes_no_file(tmp_path: Path):
    assert AuditLog(tmp_path / "audit.log").read() == ()
    assert list(tmp_path.iterdir()) == []


def test_only_the_owner_may_read_it(log: AuditLog):
    assert {path.stat().st_mode & 0o777 for path in (log.path, log.head_path)} == {0o600}


def test_an_edited_line_is_found(log: AuditLog):
    log.path.write_bytes(log.path.read_bytes().replace(b'"round":2', b'"round":9'))
    with pytest.raises(LedgerError, match="line 2 "):
        log.verify()


def test_a_line_edited_with_a_fresh_hash_breaks_the_next_one(log: AuditLog):
    lines = lines_of(log)
    record = json.loads(lines[1])
    record["details"]["round"] = 9
    record["hash"] = chain_hash({k: v for k, v in record.items() if k != "hash"})
    log.path.write_bytes(lines[0] + canonical_json(record).encode() + b"\n" + lines[2])
    with pytest.raises(LedgerError, match="line 3 "):
        log.verify()


def test_a_line_respelled_with_the_same_meaning_is_found(log: AuditLog):
    lines = lines_of(log)
    log.path.write_bytes(lines[0] + json.dumps(json.loads(lines[1])).encode() + b"\n" + lines[2])
    with pytest.raises(LedgerError, match="line 2 "):
        log.verify()


@pytest.mark.parametrize(("kept", "bad"), [((0, 2), 2), ((1, 2), 1), ((1, 0, 2), 1), ((0, 0, 1, 2), 2)])
def test_a_removed_moved_or_repeated_line_is_found(log: AuditLog, kept, bad):
    lines = lines_of(log)
    log.path.write_bytes(b"".join(lines[i] for i in kept))
    with pytest.raises(LedgerError, match=f"line {bad} "):
        log.verify()


def test_a_tail_cut_at_a_line_is_found_by_the_head(log: AuditLog):
    log.path.write_bytes(b"".join(lines_of(log)[:2]))
    with pytest.raises(LedgerError, match=r"rolled back.*row 3 is the first that is missing"):
        log.verify()


def test_a_line_cut_in_half_is_found_and_nothing_is_added_to_it(log: AuditLog):
    log.path.write_bytes(log.path.read_bytes()[:-20])
    before = log.path.read_bytes()
    for attempt in (log.verify, lambda: log.append("release", {})):
        with pytest.raises(LedgerError, match=r"line 3 .*cut off"):
            attempt()
    assert log.path.read_bytes() == before


def test_a_log_taken_away_is_missed(log: AuditLog):
    log.path.unlink()
    for attempt in (log.read, lambda: log.append("release", {})):
        with pytest.raises(LedgerError, match="missing"):
            attempt()
    assert not log.path.exists()


def test_an_append_reads_the_end_alone_and_a_reading_finds_what_was_edited_before_it(log: AuditLog, monkeypatch):
    log.path.write_bytes(log.path.read_bytes().replace(b'"round":1', b'"round":9'))
    monkeypatch.setattr(AuditLog, "_checked", lambda *_: pytest.fail("read all of it"))
    assert log.append("release", {"round": 4}).n == 4
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="line 1 "):
        log.read()


@pytest.mark.parametrize("length", [10, 16 << 10, 200_000])
def test_a_last_line_of_any_length_is_gone_on_from(log: AuditLog, length):
    log.append("refusal", {"why": "x" * length})
    log.append("release", {"round": 5})
    assert log.verify() == 5


ENDS = {
    "the last line was edited": lambda lines: [*lines[:2], lines[2].replace(b'"round":3', b'"round":9')],
    "the last line was removed": lambda lines: lines[:2],
    "two lines were removed": lambda lines: lines[:1],
    "all lines were removed": lambda _: [],
    "the last two lines changed places": lambda lines: [lines[0], lines[2], lines[1]],
    "an empty line was added": lambda lines: [*lines, b"\n"],
    "something else was added": lambda lines: [*lines, b'{"n":4}\n'],
}


@pytest.mark.parametrize("name", ENDS)
def test_nothing_is_added_to_an_end_that_is_not_the_one_that_was_written(log: AuditLog, name):
    log.path.write_bytes(b"".join(ENDS[name](lines_of(log))))
    before = log.path.read_bytes()
    with pytest.raises(LedgerError):
        log.append("release", {})
    assert log.path.read_bytes() == before


def test_an_end_that_was_written_anew_with_right_hashes_does_not_fit_its_head(log: AuditLog):
    lines = lines_of(log)
    record = json.loads(lines[2])
    record["details"]["round"] = 9
    record["hash"] = chain_hash({k: v for k, v in record.items() if k != "hash"})
    log.path.write_bytes(b"".join(lines[:2]) + canonical_json(record).encode() + b"\n")
    with pytest.raises(LedgerError, match="not the row that its head knows"):
        log.append("release", {})


def test_a_head_taken_away_is_missed(log: AuditLog):
    log.head_path.unlink()
    with pytest.raises(LedgerError, match="missing"):
        log.append("release", {})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"count": -1, "hash": ""}', '{"count": true, "hash": ""}', "null"])
def test_a_head_that_is_no_head_is_refused(log: AuditLog, text):
    log.head_path.write_text(text)
    with pytest.raises(LedgerError, match="not a chain head"):
        log.verify()


def test_a_crash_between_line_and_head_leaves_a_good_log(log: AuditLog):
    head = log.head_path.read_bytes()
    log.append("release", {"round": 4})
    log.head_path.write_bytes(head)
    assert log.verify() == 4
    log.append("release", {"round": 5})
    moved = read_head(log.head_path)
    assert moved is not None
    assert moved.count == 5


def test_a_clock_set_back_changes_nothing(tmp_path: Path):
    times = iter([datetime(2030, 1, 1, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC)])
    log = AuditLog(tmp_path / "audit.log", clock=lambda: next(times))
    log.append("a", {})
    log.append("b", {})
    assert [e.time[:4] for e in log.read()] == ["2030", "2020"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}, b"x", Path()])
def test_details_other_than_finite_scalars_are_refused_and_nothing_is_written(log: AuditLog, value):
    with pytest.raises(UsageError, match="audit detail bad"):
        log.append("release", {"bad": value})
    assert log.verify() == 3


def test_a_line_break_in_a_detail_makes_no_second_line(log: AuditLog):
    log.append("refusal", {"why": 'a\n{"n":5}\u2028b'})
    assert log.verify() == 4
    assert log.read()[-1].details["why"] == 'a\n{"n":5}\u2028b'


def test_a_full_disk_leaves_whole_lines_and_says_so(log: AuditLog):
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(StorageError, match="no space"):
            log.append("release", {"round": 4})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.path.read_bytes() == before
    assert log.append("release", {"round": 4}).n == 4


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path):
    with pytest.raises(FedctError) as caught:
        AuditLog(tmp_path / "none" / "audit.log").append("release", {})
    assert caught.value.exit_code == StorageError.exit_code


@pytest.mark.slow
def test_processes_writing_at_once_keep_one_chain(log: AuditLog):
    code = """
import sys, time
from pathlib import Path
from client.audit_log import AuditLog
from common.clock import now
def slow_clock():  # asked between the check and the line: without a lock, others would slip in here
    time.sleep(0.02)
    return now()
log = AuditLog(Path(sys.argv[1]), slow_clock)
for i in range(8):
    log.append("release", {"writer": sys.argv[2], "i": i})
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    writers = [subprocess.Popen([sys.executable, "-c", code, log.path, str(w)], env=environment) for w in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert log.verify() == 27
    for writer in "012":
        assert [e.details["i"] for e in log.read() if e.details.get("writer") == writer] == list(range(8))
