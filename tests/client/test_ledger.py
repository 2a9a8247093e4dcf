"""The ledger under attack, under crashes and in company: it never under-charges."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import ledger as ledger_module
from client.chain import GENESIS, Head, chain_hash, read_head, write_head
from client.ledger import Ledger
from common.errors import BudgetExceeded, LedgerError, StorageError, UsageError
from common.privacy.accounting import epsilon
from common.privacy.events import Gaussian, SubsampledGaussian

ROUND = [SubsampledGaussian(10.0, 1.0, 1)]  # about 0.34 at delta 1e-5; analytic, hence quick
DELTA = 1e-5
ROOT = Path(__file__).parents[2]
STUDY, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def reserve(
    ledger: Ledger, round_: int = 1, *, study: str = STUDY, cohort: str = "default", budget: float = 8.0, events=ROUND
) -> int:
    return ledger.reserve(
        cohort=cohort, study_digest=study, round_=round_, events=events, max_epsilon=budget, max_delta=DELTA
    )


def tamper(ledger: Ledger, *statements: str) -> None:
    """What someone with the file and SQLite can do, triggers out of the way and put back."""
    with sqlite3.connect(ledger.path, isolation_level=None) as database:
        triggers = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            database.execute(statement)
        for _, sql in triggers:
            database.execute(sql)
    database.close()


def run_python(code: str, *arguments: object, **options) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **options)


def start(processes: list[subprocess.Popen[str]]) -> None:
    """Let processes that wait for a line go on together."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


# What is charged


def test_what_is_reserved_is_spent_at_once(ledger: Ledger):
    assert ledger.spent("default", DELTA) == 0.0
    reserve(ledger)
    assert ledger.spent("default", DELTA) == epsilon(ROUND, DELTA)


def test_rounds_compose_over_studies_and_each_study_is_told_apart(ledger: Ledger):
    reserve(ledger, 1)
    reserve(ledger, 2)
    reserve(ledger, 1, study=OTHER, events=[Gaussian(5.0, 2)])
    assert ledger.spent("default", DELTA) == epsilon([*ROUND, *ROUND, Gaussian(5.0, 2)], DELTA)
    assert ledger.spent_by_study("default", STUDY, DELTA) == epsilon(ROUND * 2, DELTA)
    assert ledger.spent_by_study("default", OTHER, DELTA) == epsilon([Gaussian(5.0, 2)], DELTA)
    assert ledger.spent_by_study("default", "c" * 64, DELTA) == 0.0


def test_a_study_can_not_spend_twice_by_renaming_itself(ledger: Ledger):
    reserve(ledger, study=STUDY, budget=0.4)
    with pytest.raises(BudgetExceeded):
        reserve(ledger, study=OTHER, budget=0.4)


def test_cohorts_have_budgets_of_their_own(ledger: Ledger):
    reserve(ledger, cohort="spine", budget=0.4)
    reserve(ledger, cohort="chest", budget=0.4)
    assert ledger.spent("spine", DELTA) == ledger.spent("chest", DELTA) == epsilon(ROUND, DELTA)


def test_a_retried_round_is_charged_again(ledger: Ledger):
    reserve(ledger, 1)
    reserve(ledger, 1)
    assert ledger.rounds_charged("default", STUDY) == (1, 1)
    assert ledger.spent("default", DELTA) == epsilon(ROUND * 2, DELTA)


def test_commit_and_release_charge_nothing_and_refund_nothing(ledger: Ledger):
    row = reserve(ledger)
    ledger.commit(row)
    ledger.release(row, "update")
    ledger.release_uncharged(cohort="default", study_digest=STUDY, round_=1, what="evaluation, exact")
    assert ledger.spent("default", DELTA) == epsilon(ROUND, DELTA)
    assert [(e.kind, e.reservation, e.note) for e in ledger.entries()] == [
        ("reserve", 0, ""),
        ("commit", 1, ""),
        ("release", 1, "update"),
        ("release", 0, "evaluation, exact"),
    ]


def test_the_step_that_would_overrun_is_refused_with_its_numbers_and_charges_nothing(ledger: Ledger):
    reserve(ledger, 1, budget=0.4)
    before = ledger.spent("default", DELTA)
    with pytest.raises(
        BudgetExceeded, match=r"round 2 .*'default'.*max_epsilon 0.4 at delta 1e-05.* is spent"
    ) as caught:
        reserve(ledger, 2, budget=0.4)
    assert f"{before:.4g} is spent" in caught.value.message
    assert caught.value.remedy
    assert ledger.spent("default", DELTA) == before
    assert [e.kind for e in ledger.entries()] == ["reserve", "refuse"]
    assert ledger.entries()[1].events == tuple(ROUND)


def test_a_budget_may_be_spent_to_the_last(ledger: Ledger):
    reserve(ledger, budget=epsilon(ROUND, DELTA))


def test_a_budget_that_is_no_number_permits_nothing(ledger: Ledger):
    with pytest.raises(BudgetExceeded):
        reserve(ledger, budget=float("nan"))


def test_a_reservation_of_nothing_is_refused(ledger: Ledger):
    with pytest.raises(UsageError):
        reserve(ledger, events=[])


def test_the_forecast_is_the_charge(ledger: Ledger):
    reserve(ledger)
    told = ledger.forecast("default", ROUND * 3, DELTA)
    assert ledger.verify() == 1
    for round_ in (2, 3, 4):
        reserve(ledger, round_)
    assert ledger.spent("default", DELTA) == told


@pytest.mark.parametrize("row", [0, 2, 99])
def test_only_a_reservation_can_be_committed_or_released(ledger: Ledger, row):
    ledger.commit(reserve(ledger))
    for attempt in (ledger.commit, lambda r: ledger.release(r, "update")):
        with pytest.raises(LedgerError, match=f"row {row} .*not a reservation"):
            attempt(row)


def test_a_reservation_is_committed_once(ledger: Ledger):
    row = reserve(ledger)
    ledger.commit(row)
    with pytest.raises(LedgerError, match="committed already"):
        ledger.commit(row)


@settings(max_examples=15, deadline=None)
@given(asks=st.lists(st.tuples(st.sampled_from("xy"), st.floats(1, 50), st.integers(1, 5)), max_size=6))
def test_whatever_is_asked_the_budget_holds(asks, tmp_path_factory):
    ledger = Ledger(tmp_path_factory.mktemp("site") / "ledger.sqlite")
    granted: dict[str, list[Gaussian]] = {"x": [], "y": []}
    for cohort, sigma, count in asks:
        event = Gaussian(sigma, count)
        fits = epsilon([*granted[cohort], event], DELTA) <= 1.5
        try:
            reserve(ledger, cohort=cohort, budget=1.5, events=[event])
            assert fits
            granted[cohort].append(event)
        except BudgetExceeded:
            assert not fits
    for cohort, events in granted.items():
        assert ledger.spent(cohort, DELTA) == epsilon(events, DELTA) <= 1.5


def test_only_the_owner_may_read_it_and_nothing_else_is_left_behind(ledger: Ledger):
    reserve(ledger)
    assert {p.name for p in ledger.path.parent.iterdir()} == {"ledger.sqlite", "ledger.head"}
    assert {p.stat().st_mode & 0o777 for p in ledger.path.parent.iterdir()} == {0o600}


def test_the_file_is_in_write_ahead_mode(ledger: Ledger):
    database = sqlite3.connect(ledger.path)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()


# Tampering


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET events = '[]'",
        "DELETE FROM entry",
        "DELETE FROM entry WHERE id = 2",
        "INSERT OR REPLACE INTO entry SELECT 1, time, kind, cohort, study, round, '[]', 0, '', prev, hash FROM entry",
    ],
)
def test_sqlite_itself_refuses_to_change_the_past(ledger: Ledger, statement):
    reserve(ledger, 1)
    reserve(ledger, 2)
    database = sqlite3.connect(ledger.path)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        database.execute(statement)
    database.close()
    assert ledger.verify() == 2


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("UPDATE entry SET events = '[]' WHERE id = 2", 2),
        ("UPDATE entry SET kind = 'refuse' WHERE id = 1", 1),
        ("UPDATE entry SET cohort = 'nobody' WHERE id = 3", 3),
        ("UPDATE entry SET time = '2001-01-01' WHERE id = 2", 2),
        ("UPDATE entry SET round = round + 1 WHERE id = 3", 3),
        ("DELETE FROM entry WHERE id = 1", 1),
        ("DELETE FROM entry WHERE id = 2", 2),
        ("UPDATE entry SET id = CASE id WHEN 2 THEN -3 ELSE -2 END WHERE id IN (2, 3)", 1),
    ],
)
def test_an_edited_or_removed_row_is_found(ledger: Ledger, statement, row):
    for round_ in (1, 2, 3):
        reserve(ledger, round_)
    tamper(ledger, statement)
    for attempt in (ledger.verify, lambda: reserve(ledger, 4), lambda: Ledger(ledger.path)):
        with pytest.raises(LedgerError, match=f"row {row} .*edited, removed or moved"):
            attempt()


def test_rows_that_changed_places_are_found(ledger: Ledger):
    for round_ in (1, 2, 3):
        reserve(ledger, round_)
    tamper(
        ledger,
        "UPDATE entry SET id = 9 WHERE id = 2",
        "UPDATE entry SET id = 2 WHERE id = 3",
        "UPDATE entry SET id = 3 WHERE id = 9",
    )
    with pytest.raises(LedgerError, match="row 2 "):
        ledger.verify()


def test_a_row_edited_with_a_fresh_hash_is_found_by_the_head(ledger: Ledger):
    reserve(ledger)
    entry = ledger.entries()[0]
    names = ("id", "time", "kind", "cohort", "study", "round", "reservation", "note", "prev")
    forged = chain_hash({**{name: getattr(entry, name) for name in names}, "events": "[]"})
    tamper(ledger, f"UPDATE entry SET events = '[]', hash = '{forged}'")
    with pytest.raises(LedgerError, match=r"row 1 .*not the row that its head knows"):
        ledger.verify()


def test_a_cut_off_tail_is_found(ledger: Ledger):
    for round_ in (1, 2, 3):
        reserve(ledger, round_)
    tamper(ledger, "DELETE FROM entry WHERE id = 3")
    with pytest.raises(LedgerError, match=r"rolled back.*row 3 is the first that is missing"):
        reserve(ledger, 4)


def test_a_copied_back_old_ledger_is_refused(ledger: Ledger, tmp_path: Path):
    reserve(ledger, 1)
    shutil.copy(ledger.path, tmp_path / "old")
    reserve(ledger, 2)
    shutil.copy(tmp_path / "old", ledger.path)
    with pytest.raises(LedgerError, match="rolled back"):
        reserve(ledger, 2)


def test_a_ledger_of_another_site_is_refused(ledger: Ledger, tmp_path: Path):
    reserve(ledger)
    (tmp_path / "other").mkdir()
    other = Ledger(tmp_path / "other" / "ledger.sqlite")
    reserve(other, events=[Gaussian(1000.0)])
    shutil.copy(other.path, ledger.path)
    with pytest.raises(LedgerError, match="not the row that its head knows"):
        Ledger(ledger.path)


def test_a_deleted_ledger_is_not_made_anew(ledger: Ledger):
    reserve(ledger)
    ledger.path.unlink()
    for attempt in (lambda: Ledger(ledger.path), lambda: reserve(ledger), ledger.verify):
        with pytest.raises(LedgerError, match=r"missing though 'ledger\.head' exists"):
            attempt()
    assert not ledger.path.exists()


def test_a_deleted_head_is_missed_and_not_made_anew(ledger: Ledger):
    reserve(ledger)
    ledger.head_path.unlink()
    for attempt in (lambda: Ledger(ledger.path), lambda: reserve(ledger), ledger.verify):
        with pytest.raises(LedgerError, match="missing"):
            attempt()
    assert not ledger.head_path.exists()


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 300])
def test_a_file_that_is_no_ledger_is_refused(ledger: Ledger, content):
    reserve(ledger)
    ledger.path.write_bytes(content)
    with pytest.raises(LedgerError):
        reserve(ledger)
    assert ledger.path.read_bytes() == content


def test_a_damaged_page_is_refused(ledger: Ledger):
    for round_ in range(1, 30):
        reserve(ledger, round_, budget=100.0)
    data = bytearray(ledger.path.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    ledger.path.write_bytes(bytes(data))
    with pytest.raises(LedgerError):
        ledger.spent("default", DELTA)


def test_a_dropped_trigger_is_found(ledger: Ledger):
    with sqlite3.connect(ledger.path) as database:
        database.execute("DROP TRIGGER no_update")
    database.close()
    with pytest.raises(LedgerError, match="altered"):
        reserve(ledger)


def test_a_clock_set_back_changes_nothing(tmp_path: Path):
    now = datetime(2030, 1, 1, tzinfo=UTC)
    ledger = Ledger(tmp_path / "ledger.sqlite", clock=lambda: now)
    reserve(ledger, 1, budget=0.4)
    earlier = Ledger(ledger.path, clock=lambda: now - timedelta(days=9999))
    with pytest.raises(BudgetExceeded):
        reserve(earlier, 2, budget=0.4)
    assert earlier.verify() == 2
    assert earlier.spent("default", DELTA) == epsilon(ROUND, DELTA)


# Crashes


def test_a_crash_between_row_and_head_keeps_the_charge_and_the_ledger(ledger: Ledger):
    reserve(ledger, 1)
    head = read_head(ledger.head_path)
    reserve(ledger, 2)
    assert head is not None
    write_head(ledger.head_path, head)
    again = Ledger(ledger.path)
    assert again.spent("default", DELTA) == epsilon(ROUND * 2, DELTA)
    assert read_head(again.head_path) == Head(2, again.entries()[1].hash)


def test_a_crash_before_the_first_head_leaves_a_usable_ledger(ledger: Ledger):
    ledger.head_path.unlink()
    assert Ledger(ledger.path).verify() == 0
    assert read_head(ledger.head_path) == Head(0, GENESIS)


KILL_WHERE = {
    "before the row is written": "clock=lambda: os.kill(os.getpid(), signal.SIGKILL)",
    "after the row, before the head": "",
    "after reserve, before commit": "",
}


@pytest.mark.slow
@pytest.mark.parametrize("where", list(KILL_WHERE))
def test_kill_at_any_step_never_under_charges_and_the_ledger_stays_readable(ledger: Ledger, where):
    reserve(ledger, 1)
    code = f"""
import os, signal, sys
from pathlib import Path
import client.ledger as module
from common.privacy.events import SubsampledGaussian
ledger = module.Ledger(Path(sys.argv[1]))
if {where == "before the row is written"}:
    ledger = module.Ledger(Path(sys.argv[1]), {KILL_WHERE[where]})
if {where == "after the row, before the head"}:
    module.write_head = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
row = ledger.reserve(cohort="default", study_digest="{STUDY}", round_=2, events=[SubsampledGaussian(10.0, 1.0, 1)],
                     max_epsilon=8.0, max_delta=1e-5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = run_python(code, ledger.path)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    again = Ledger(ledger.path)
    rows = 1 if where == "before the row is written" else 2
    assert [e.kind for e in again.entries()] == ["reserve"] * rows
    assert again.spent("default", DELTA) == epsilon(ROUND * rows, DELTA)
    reserve(again, 3)


@pytest.mark.slow
def test_two_processes_can_not_spend_the_same_budget(ledger: Ledger):
    budget = epsilon(ROUND * 5, DELTA)  # five rounds fit; four processes ask for four each
    code = f"""
import sys, time
from pathlib import Path
from client.ledger import Ledger
from common.clock import now
from common.errors import BudgetExceeded
from common.privacy.events import SubsampledGaussian
def slow_clock():  # asked between the check and the row: without a lock, others would slip in here
    time.sleep(0.05)
    return now()
ledger = Ledger(Path(sys.argv[1]), slow_clock)
print("ready", flush=True)
sys.stdin.readline()
granted = 0
for i in range(4):
    try:
        ledger.reserve(cohort="default", study_digest=sys.argv[2], round_=i + 1,
                       events=[SubsampledGaussian(10.0, 1.0, 1)], max_epsilon={budget!r}, max_delta=1e-5)
        granted += 1
    except BudgetExceeded:
        pass
print(granted)
"""
    processes = [run_python(code, ledger.path, f"{i}" * 64, stdin=subprocess.PIPE) for i in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start(processes)
    granted = [int(process.communicate(timeout=90)[0]) for process in processes]
    assert sum(granted) == 5
    assert [p.returncode for p in processes] == [0] * 4
    kinds = [e.kind for e in Ledger(ledger.path).entries()]
    assert (kinds.count("reserve"), kinds.count("refuse")) == (5, 11)


@pytest.mark.slow
def test_processes_that_open_a_new_site_at_once_make_one_ledger(tmp_path: Path):
    code = f"""
import sys
from pathlib import Path
from client.ledger import Ledger
from common.privacy.events import Gaussian
sys.stdin.readline()
Ledger(Path(sys.argv[1])).reserve(cohort="default", study_digest="{STUDY}", round_=1, events=[Gaussian(50.0)],
                                  max_epsilon=8.0, max_delta=1e-5)
"""
    path = tmp_path / "ledger.sqlite"
    processes = [run_python(code, path, stdin=subprocess.PIPE) for _ in range(4)]
    start(processes)
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert Ledger(path).spent("default", DELTA) == epsilon([Gaussian(50.0, 4)], DELTA)


ACKNOWLEDGING = f"""
import sys
from pathlib import Path
from client.ledger import Ledger
from common.privacy.events import Gaussian
ledger = Ledger(Path(sys.argv[1]))
for round_ in range(1, 10_000):
    ledger.reserve(cohort="default", study_digest="{STUDY}", round_=round_, events=[Gaussian(1000.0)],
                   max_epsilon=8.0, max_delta=1e-5)
    print(round_, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("milliseconds", [0, 3, 7, 20, 51, 120])
def test_a_charge_that_was_answered_survives_kill_at_any_moment(ledger: Ledger, milliseconds):
    process = run_python(ACKNOWLEDGING, ledger.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    time.sleep(milliseconds / 1000)
    process.kill()
    rest = process.stdout.read()  # not communicate(), which skips what readline() read ahead
    answered = [1, *map(int, rest.split())]
    process.communicate(timeout=60)
    again = Ledger(ledger.path)
    charged = again.rounds_charged("default", STUDY)
    assert charged in (tuple(answered), (*answered, answered[-1] + 1))
    assert again.spent("default", DELTA) == epsilon([Gaussian(1000.0, len(charged))], DELTA)
    reserve(again, 99)
    assert again.verify() == len(charged) + 1


# Disk


SMALL_DISK = """
import shutil, sys
from pathlib import Path
from client.ledger import Ledger
from common.errors import StorageError
from common.privacy.events import Gaussian
disk, ballast = Path(sys.argv[1]), Path(sys.argv[1]) / "ballast"
def reserve(ledger, round_):
    ledger.reserve(cohort="default", study_digest="a" * 64, round_=round_, events=[Gaussian(50.0)],
                   max_epsilon=8.0, max_delta=1e-5)
for pages in range(16):
    ledger = Ledger(disk / f"{pages}.sqlite")
    reserve(ledger, 1)
    free = shutil.disk_usage(disk).free - 4096 * pages
    ballast.write_bytes(bytes(max(0, free)))
    try:
        reserve(ledger, 2)
        answer = "charged"
    except StorageError:
        answer = "full"
    ballast.unlink()
    again = Ledger(disk / f"{pages}.sqlite")
    rows = again.verify()
    reserve(again, 3)
    print(pages, answer, rows, again.verify(), f"{again.spent('default', 1e-5)!r}", flush=True)
    for path in disk.glob(f"{pages}.*"):
        path.unlink()
"""


@pytest.mark.slow
@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0
    if shutil.which("unshare")
    else True,
    reason="a small disk can't be mounted here",
)
@pytest.mark.failure(
    "a site's disk, full while it charges",
    seen="`failed` with `storage`",
    ends="goes on without it",
    ledgers="the charge stands, or nothing was read",
)
def test_a_disk_that_is_full_at_any_page_never_loses_a_charge(tmp_path: Path):
    """A disk of a megabyte with 0 to 15 pages left: too few for a charge at first, enough at last."""
    mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, tmp_path, sys.executable, "-W", "error", "-c", SMALL_DISK, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 16
    assert (found[0][1], found[-1][1]) == ("full", "charged")
    for _, answer, before, after, spent in found:
        assert before in {"charged": {"2"}, "full": {"1", "2"}}[answer]
        assert int(after) == int(before) + 1
        assert float(spent) == epsilon([Gaussian(50.0, int(after))], DELTA)


def test_a_full_disk_is_no_silent_success_and_leaves_a_good_ledger(ledger: Ledger):
    reserve(ledger, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(StorageError):
            reserve(ledger, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ledger.verify() == 1
    reserve(ledger, 2)


def test_a_head_that_can_not_be_written_fails_the_reservation_and_keeps_its_charge(ledger: Ledger, monkeypatch):
    def full(*_: object) -> None:
        raise StorageError("no space left")

    monkeypatch.setattr(ledger_module, "write_head", full)
    with pytest.raises(StorageError):
        reserve(ledger)
    monkeypatch.undo()
    assert Ledger(ledger.path).spent("default", DELTA) == epsilon(ROUND, DELTA)


@pytest.mark.skipif(os.geteuid() == 0, reason="file modes do not bind root")
def test_a_ledger_that_may_not_be_written_is_a_storage_error(ledger: Ledger):
    ledger.path.chmod(0o400)
    with pytest.raises(StorageError):
        reserve(ledger)


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path: Path):
    with pytest.raises(StorageError):
        Ledger(tmp_path / "none" / "ledger.sqlite")


def test_a_ledger_held_for_too_long_is_a_storage_error(ledger: Ledger, monkeypatch):
    monkeypatch.setattr(ledger_module, "_BUSY_SECONDS", 0.1)
    holder = sqlite3.connect(ledger.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="held by another process"):
        reserve(ledger)
    holder.close()


def test_a_row_that_was_edited_after_this_object_found_it_good_is_noticed(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for round_ in (1, 2, 3):
        ledger.release_uncharged(cohort="c", study_digest="a" * 64, round_=round_, what="counts")
    assert len(ledger.entries()) == 3
    tamper(ledger, "UPDATE entry SET note = 'nothing' WHERE id = 2")
    with pytest.raises(LedgerError, match="row 2 of ledger"):
        ledger.entries()
    tamper(ledger, "UPDATE entry SET note = 'counts' WHERE id = 2")
    assert len(ledger.entries()) == 3
