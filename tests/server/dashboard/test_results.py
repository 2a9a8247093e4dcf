"""Results on the page: the report's own figures, downloads, studies side by side."""

from __future__ import annotations

import re

import pytest

from server.report.page import page as report
from server.results import read_results

DONE, GOING = "spine-done", "spine-going"


def test_the_page_shows_the_reports_own_figures_and_tables(page, past):
    served = page(past)
    browser = served.browser()
    assert "Drawing the figures" in browser.text(f"/studies/{DONE}/results")
    drawn = browser.get(f"/studies/{DONE}/results/figures").text
    figures = re.findall(r"<svg .*?</svg>", drawn, flags=re.DOTALL)
    whole = report(read_results(past.folder / "runs" / DONE / "results.json"))
    assert len(figures) >= 7
    assert figures == re.findall(r"<svg .*?</svg>", whole, flags=re.DOTALL)
    assert drawn.strip() in whole
    assert drawn in browser.get(f"/studies/{DONE}/results").text, "drawn once, it is there at once"


def test_a_study_that_goes_on_shows_its_rounds_so_far(page, past):
    drawn = page(past).browser().get(f"/studies/{GOING}/results/figures").text
    assert drawn.count("<svg") == 3
    assert "accuracy over the rounds" in drawn


def test_figures_have_no_inline_style_that_the_policy_would_block(page, past):
    browser = page(past).browser()
    for path in ("/", f"/studies/{GOING}", f"/studies/{DONE}/results/figures", "/compare", "/launch", "/sites"):
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
