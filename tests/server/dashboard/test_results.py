"""Results on the page: the report's own figures, downloads, studies side by side."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime

import pytest

from server.dashboard.shelf import Runs, SimulationShelf
from server.dashboard.so_far import SoFar
from server.report.page import page as report
from server.results import read_results
from simulations.showcase import Past, make_run, make_study

DONE, GOING = "spine-done", "spine-going"


def test_the_page_shows_the_reports_own_figures_and_tables(page, past):
    shown = page(past).browser().get(f"/studies/{DONE}/results").text
    body = report(read_results(past.folder / "runs" / DONE / "results.json")).split("<main>")[1].split("</main>")[0]
    assert body.count("<svg ") >= 7
    assert body.strip() in shown


def test_a_report_is_shown_as_it_was_written_whatever_the_size_of_the_results(page, tmp_path):
    folder = make_run(tmp_path / "a", make_study("a", "A", 2), ("x", "y"), Past(2, finished=True), datetime.now(UTC))
    folder.results_file.write_text("results of 100 sites and 500 rounds take gigabytes to read")
    browser = page(run=folder.root).browser()
    assert "Confusion matrix of the final model" in browser.text("/studies/a/results")
    folder.report_file.write_text("cut off")
    shown = browser.get("/studies/a/results")
    assert shown.status_code == 409
    assert "is no study report" in shown.text


def test_a_study_that_goes_on_shows_its_rounds_so_far_drawn_once(page, past):
    browser = page(past).browser()
    assert "Drawing the figures" in browser.text(f"/studies/{GOING}/results")
    drawn = browser.get(f"/studies/{GOING}/results/figures").text
    assert drawn.count("<svg") == 3
    assert "accuracy over the rounds" in drawn
    assert drawn in browser.get(f"/studies/{GOING}/results").text, "drawn once, it is there at once"


def test_a_round_is_read_once_and_all_are_when_another_run_takes_the_folder(tmp_path):
    def run(rounds):
        past = Past(rounds, finished=False)
        return make_run(tmp_path / "a", make_study("a", "A", 9), ("x", "y"), past, datetime.now(UTC), seed=rounds)

    folder = run(3)
    so_far = SoFar(folder.inner)
    first = so_far.figures()
    assert so_far.ready(3) == first
    assert so_far.ready(4) is None
    (folder.inner / "rounds" / "00001.json").write_text("read already")
    last = (folder.inner / "rounds" / "00003.json").read_text().replace('"round":3', '"round":4')
    (folder.inner / "rounds" / "00004.json").write_text(last)
    (folder.inner / "checkpoints" / "00004.safetensors").touch()
    fourth = so_far.figures()
    assert fourth != first
    assert so_far.ready(4) == fourth
    run(2)
    assert so_far.ready(4) is None
    assert so_far.figures() == SoFar(folder.inner).figures()


def test_what_is_shown_first_is_read_ahead(tmp_path):
    make_run(tmp_path / "a", make_study("a", "A", 9), ("x", "y"), Past(2, finished=False), datetime.now(UTC))
    runs = Runs(SimulationShelf(tmp_path / "a"))
    stopping = threading.Event()
    stopping.set()
    runs.read_ahead(stopping)
    assert runs.so_far("a").ready(2) is None
    runs.read_ahead(threading.Event())
    assert "<svg" in runs.so_far("a").ready(2)


def test_figures_have_no_inline_style_that_the_policy_would_block(page, past):
    browser = page(past).browser()
    for path in ("/", f"/studies/{GOING}", f"/studies/{DONE}/results", "/compare", "/launch", "/sites"):
        text = browser.get(path).text
        assert not re.search(r'\sstyle="|<style|\son[a-z]+="|<script>', text), path


def test_what_is_named_can_be_downloaded_and_is_audited(page, past):
    served = page(past)
    browser = served.browser()
    for file in ("report.html", "results.json", "model-card.md", "model-card.json"):
        shown = browser.get(f"/studies/{DONE}/files/{file}")
        assert shown.content == (past.folder / "runs" / DONE / file).read_bytes()
        assert shown.headers["content-disposition"] == f'attachment; filename="{DONE}-{file}"'
        assert served.actions[-1].note == f"downloaded {file} of {DONE}"
    assert browser.get(f"/studies/{DONE}/files/model.safetensors").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        f"/studies/{DONE}/files/run/study.json",
        f"/studies/{DONE}/files/..%2f..%2fstudy.key",
        f"/studies/{DONE}/files/%2fetc%2fpasswd",
        f"/studies/..%2f{DONE}/files/results.json",
        "/studies/../files/study.key",
        f"/studies/{DONE}/files/events.jsonl",
    ],
)
def test_nothing_else_of_the_disk_can_be_downloaded(page, past, path):
    assert page(past).browser().get(path).status_code in (404, 422)


def test_exporting_onnx_does_what_the_command_does(page, past):
    shown = page(past).browser().post(f"/studies/{DONE}/onnx")
    assert shown.status_code == 409
    assert "holds no model.safetensors" in shown.text


def test_studies_are_compared_by_the_figures_of_their_cards(page, past):
    text = page(past).browser().text("/compare")
    accuracy = read_results(past.folder / "runs" / DONE / "results.json").final.pooled.accuracy
    assert f"Accuracy {accuracy.value:.3f} {accuracy.low:.3f}–{accuracy.high:.3f}" in text
    assert GOING not in text
    assert "Accuracy" not in page(past).browser().text("/compare?run=none")
