"""Studies on the page: what is shown of each, live, and what can be done."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from datetime import UTC, datetime
from subprocess import run as run_process
from types import SimpleNamespace

import pytest

from common.errors import UsageError
from server.control import Run
from server.dashboard.shelf import CoordinatorShelf, Runs, SimulationShelf
from server.history import history
from server.run_folder import Launch, RunFolder
from simulations.showcase import Past, make_run, make_study

DONE, GOING = "spine-done", "spine-going"


def test_every_study_is_listed_newest_first_with_its_state_and_its_rounds(page, past):
    text = page(past).browser().text("/")
    assert "Next year spine-going not known 4 / 9 4 of 9" in text
    assert "Three kinds of spine spine-done finished 6 / 6 6 of 6" in text


def test_a_page_without_studies_says_so(page, fresh):
    assert "No study yet" in page(fresh).browser().text("/")


def test_a_study_shows_its_round_who_does_what_and_why_not_and_its_plan(page, past):
    text = page(past).browser().text(f"/studies/{GOING}")
    assert "Round 5 of 9 1 of 4 sent" in text
    assert "north-clinic failed its disk is full or can't be written" in text
    assert "riverside-general connection lost" in text
    assert "hospital-of-the-lake training" in text
    assert "north-clinic: failed, its connection was lost" in text
    assert "hospital-of-the-lake: answered too late, no answer before the deadline" in text
    assert "A round counts with 2 sites or more" in text
    assert make_study("next", "Next year", 9).digest in text


def test_all_rounds_are_listed_some_at_a_time(page, tmp_path):
    make_run(tmp_path / "long", make_study("long", "Long", 60), ("a", "b"), Past(55, finished=False), datetime.now(UTC))
    browser = page(run=tmp_path / "long").browser()
    assert browser.get("/studies/long/rounds").text.count("<tr>") == 51
    assert "before=6" in browser.get("/studies/long/rounds").text
    assert browser.get("/studies/long/rounds?before=6").text.count("<tr>") == 6


def test_the_history_is_read_on_and_begins_anew_when_another_run_takes_the_folder(tmp_path):
    study = make_study("a", "A", 9)
    folder = make_run(tmp_path / "a", study, ("x", "y"), Past(2, finished=False), datetime.now(UTC))
    runs = Runs(SimulationShelf(tmp_path / "a"))
    before = runs.one("a")
    assert (before.history.done, before.history.number) == (2, 3)
    folder.event("reply", round=3, site="y", status="refused", reason="budget-exceeded", seconds=1.0)
    after = runs.one("a")
    assert after.history.places["y"].doing == "refused"
    assert before.history.places["y"].doing == "gone"
    assert after.stamp != before.stamp
    make_run(tmp_path / "a", study, ("x", "y"), Past(1, finished=False), datetime.now(UTC))
    assert runs.one("a").history.done == 1


def test_a_simulation_runs_while_its_process_holds_the_folder(tmp_path):
    make_run(tmp_path / "a", make_study("a", "A", 9), ("x", "y"), Past(2, finished=False), datetime.now(UTC))
    runs = Runs(SimulationShelf(tmp_path / "a"))
    assert runs.one("a").standing.state == "interrupted"
    with RunFolder(tmp_path / "a").alone():
        shown = runs.one("a")
        assert shown.standing.state == "running"
        assert 0 < shown.left <= 7 * 90
    with pytest.raises(UsageError, match="holds no run"):
        SimulationShelf(tmp_path)


def test_a_simulations_page_has_no_sites_nothing_to_launch_and_nothing_to_stop(page, past):
    browser = page(run=past.folder / "runs" / DONE).browser()
    assert "Three kinds of spine" in browser.text("/")
    assert "/launch" not in browser.get("/").text
    assert {browser.get(path).status_code for path in ("/sites", "/launch", "/sites/admit")} == {404}
    assert browser.post(f"/studies/{DONE}/stop").status_code == 404


@pytest.mark.parametrize("path", ["/studies/none", "/studies/%2e%2e%2fspine-done", "/studies/none/results"])
def test_a_run_that_is_not_there_is_no_page(page, past, path):
    assert page(past).browser().get(path).status_code == 404


def test_stopping_asks_first_does_what_the_command_does_and_is_audited(page, past, monkeypatch):
    done = []
    monkeypatch.setattr(
        "server.dashboard.studies.stop_run", lambda daemon, name: done.append((daemon.folder, name)) or True
    )
    served = page(past)
    browser = served.browser()
    assert "4 of 9 rounds are complete and are kept" in browser.text(f"/studies/{GOING}/stop")
    assert done == []
    assert browser.post(f"/studies/{GOING}/stop").headers["location"] == f"/studies/{GOING}"
    assert done == [(past.folder, GOING)]
    assert "The study is stopped" in browser.text(f"/studies/{GOING}")
    assert served.actions[-1].note == f"stop {GOING}"


def test_what_the_command_would_refuse_the_page_refuses_with_the_same_words(page, past):
    shown = page(past).browser().post(f"/studies/{DONE}/resume")
    assert shown.status_code == 409
    assert "no SuperLink was started" in shown.text


def test_a_name_or_a_reason_of_a_site_is_text_and_no_markup(page, tmp_path):
    study = make_study("a", "<script>alert(1)</script>", 9)
    evil = '"><img src=x onerror=alert(1)>'
    folder = make_run(tmp_path / "a", study, ("x", evil), Past(3, finished=True), datetime.now(UTC))
    folder.event("reply", round=4, site=evil, status="failed", reason="<b>why</b>", seconds=None)
    browser = page(run=tmp_path / "a").browser()
    for path in (
        "/",
        "/studies/a",
        "/studies/a/rounds",
        "/studies/a/results",
        "/studies/a/results/figures",
        "/compare",
    ):
        text = browser.get(path).text
        assert "<script>alert" not in text
        assert "<img" not in text
        assert "<b>why" not in text


def test_the_page_can_read_no_patient_since_it_has_none_of_the_code_that_could():
    code = "import sys, server.dashboard.app; print([m for m in sys.modules if m.split('.')[0] in ('client', 'pydicom', 'torch')])"
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_damaged_run_does_not_hide_the_others(page, past, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(past.folder, folder)
    (folder / "runs" / GOING / "run" / "study.json").write_text("{")
    from server.coordinator import open_coordinator

    text = page(open_coordinator(folder)).browser().text("/")
    assert "spine-done" in text
    assert GOING not in text


def test_after_something_was_done_about_a_run_the_superlink_is_asked_anew(tmp_path):
    folder = make_run(tmp_path / "a", make_study("a", "A", 9), ("x", "y"), Past(2, finished=False), datetime.now(UTC))
    folder.note_launch(Launch(0, 99))
    known = [Run(99, "running")]
    link = SimpleNamespace(runs=lambda: list(known))
    shelf = CoordinatorShelf(SimpleNamespace(control=lambda: nullcontext(link)))

    def state() -> str:
        return shelf.standing("a", folder, 9, history(folder)).state

    assert state() == "running"
    known[:] = [Run(99, "finished:stopped")]
    assert state() == "running", "it is not asked at every look"
    shelf.forget()
    assert state() == "stopped"


def test_of_a_run_that_was_broken_off_nobody_is_said_to_be_at_work(page, tmp_path):
    study = make_study("a", "A", 9)
    folder = make_run(tmp_path / "a", study, ("x", "y"), Past(2, finished=False), datetime.now(UTC))
    browser = page(run=tmp_path / "a").browser()
    with folder.alone():
        shown = browser.text("/studies/a")
        assert "Sites at work" in shown
        assert "waits until" in shown
    shown = browser.text("/studies/a")
    assert "interrupted" in shown
    assert "Sites at work" not in shown
    assert "waits until" not in shown
