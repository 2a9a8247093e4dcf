"""The page: self-contained, escaped, and true to the results in every kind of run."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from common import svg
from server.report import render_report
from server.report.course import Course
from server.report.figures import _each_hospital
from server.report.page import page
from server.results import Results

KINDS = {
    "the usual run": {},
    "fifty hospitals": {"sites": 50, "rounds": 45, "patients": 9},
    "one hospital, one round, no privacy": {"sites": 1, "rounds": 1, "privacy": False, "comparisons": False},
    "no evaluation released": {"evaluation": "withheld", "comparisons": False},
    "evaluation lost in noise": {"evaluation": "noised", "noise": 20.0, "rounds": 3},
    "a failed run": {"outcome": "failed", "rounds": 3, "comparisons": False, "reason": "only 1 of 3 sites answered"},
    "a run that failed before any round": {"outcome": "failed", "rounds": 0, "comparisons": False, "reason": "no site"},
    "few cases": {"sites": 3, "patients": 1, "classes": ("no", "yes"), "rounds": 4, "privacy": False},
    "fourteen classes": {"classes": tuple(f"finding {i}" for i in range(14)), "patients": 200, "rounds": 4},
}
HOSTILE = {
    "names": ("<script>alert(1)</script>", "$x_{1", "a\"b' onload=x", "&lt;i&gt;", "]]>"),
    "classes": ("<b>one</b>", "$\\frac", "{{ 7 * 7 }}"),
    "title": "<img src=http://evil.example/x.png>",
    "rounds": 3,
    "outcome": "failed",
    "reason": "</p><script src=http://evil.example></script>",
}
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def pages(results_of):
    made = {}

    def of(**kind):
        key = repr(kind)
        if key not in made:
            made[key] = page(results_of(**kind))
        return made[key]

    return of


@pytest.mark.parametrize("kind", [*KINDS.values(), HOSTILE], ids=[*KINDS, "hostile names"])
def test_a_page_loads_nothing_and_runs_nothing(pages, kind):
    text = pages(**kind)
    reader = Reader(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "base"} & set(reader.tags)
    for name, value in reader.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            assert value.startswith("#"), (name, value)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", text))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in reader.attributes


@pytest.mark.parametrize("kind", [*KINDS.values(), HOSTILE], ids=[*KINDS, "hostile names"])
def test_every_figure_is_well_formed_and_has_a_name(pages, kind):
    figures = re.findall(r"<svg .*?</svg>", pages(**kind), flags=re.DOTALL)
    for figure in figures:
        root = ET.fromstring(figure)
        assert root.attrib["role"] == "img"
        assert root.attrib["aria-label"]
    for colour in ("#1a2a3b", "#0b6fae"):
        assert not any(colour in figure for figure in figures)


def test_hostile_names_are_shown_as_they_are(pages):
    words = Reader(pages(**HOSTILE)).words
    for name in (*HOSTILE["names"], *HOSTILE["classes"], HOSTILE["title"], HOSTILE["reason"]):
        assert " ".join(name.split()) in words


def test_the_page_states_the_figures_of_the_results(pages, results_of):
    words = Reader(pages()).words
    pooled = results_of().final.pooled
    assert f"{100 * pooled.accuracy.value:.1f} %" in words
    assert f"{100 * pooled.accuracy.low:.1f}–{100 * pooled.accuracy.high:.1f}" in words
    assert f"{pooled.accuracy.hits:.0f} of {pooled.accuracy.cases:.0f}" in words
    assert f"{pooled.macro_auroc.value:.3f}" in words
    for site in results_of().sites:
        assert site.site in words
        assert f"{site.epsilon:.2f}" in words
    assert results_of().study_digest in words
    for stated in ("ε = 8", "δ = 0.001", "add or remove one patient", "PLD", "not a medical device", "simulat"):
        assert stated in words


def test_the_page_says_who_missed_what_and_why(pages):
    words = Reader(pages()).words
    assert "hospital-02 answered too late not stated 4–6, 11 4" in words
    assert "hospital-04 refused its privacy budget would have been overrun 17–20 4" in words


def test_a_failed_run_says_so_first(pages):
    words = Reader(pages(**KINDS["a failed run"])).words
    assert "This run failed: only 1 of 3 sites answered. Before that, 3 rounds were complete" in words
    assert words.index("This run failed") < words.index("What was done")
    assert "Confusion matrix" not in words


def test_a_run_without_privacy_says_so_and_claims_nothing(pages):
    words = Reader(pages(**KINDS["one hospital, one round, no privacy"])).words
    assert "Training was not differentially private" in words
    assert "ε" not in words


def test_few_cases_give_no_rate_but_the_fraction(pages):
    words = Reader(pages(**KINDS["few cases"])).words
    assert "only 3 patients were held out" in words
    assert "too few cases" in words
    assert "ROC of each class" not in words


def test_noise_that_drowns_the_counts_shows_no_matrix(pages):
    words = Reader(pages(**KINDS["evaluation lost in noise"])).words
    assert "the noise on the released counts is too large" in words
    assert "Confusion matrix" not in words


def test_exact_counts_are_said_to_be_outside_the_privacy_claim(pages):
    assert "Exact evaluation counts are outside this claim" in Reader(pages()).words
    assert "outside this claim" not in Reader(pages(**KINDS["no evaluation released"])).words


def test_the_lines_of_many_hospitals_become_a_spread_that_holds_them(pages, results_of):
    few, many = Reader(pages()).words, Reader(pages(**KINDS["fifty hospitals"])).words
    assert "Thin: each hospital." in few
    assert "Grey: the middle half of the hospitals" in many
    course = Course.of(results_of(**KINDS["fifty hospitals"]))
    with svg.style():
        _, axes = svg.new_figure(4, 3)
        _each_hospital(axes, course, "accuracy")
    outer, inner = (band.get_paths()[0].vertices for band in axes.collections)
    for rounds, point in course.points["accuracy"].items():
        values = sorted(point.sites.values())
        for band, share in ((outer, 0.1), (inner, 0.25)):
            edges = [y for x, y in band if x == rounds]
            low, high = min(edges), max(edges)
            assert sum(value < low for value in values) <= math.ceil(share * len(values))
            assert sum(value > high for value in values) <= math.ceil(share * len(values))
            assert low < high


def test_fifty_hospitals_over_many_rounds_stay_a_page_that_mail_takes(pages):
    assert len(pages(**KINDS["fifty hospitals"])) < 1_000_000


def test_the_same_results_give_the_same_page(results_of):
    results = results_of(rounds=2)
    assert page(results) == page(Results.model_validate_json(results.model_dump_json()))


def test_the_page_is_written_whole_and_readable_by_all(tmp_path, results_of):
    out = tmp_path / "report.html"
    assert render_report(results_of(rounds=1), out) == out
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert out.stat().st_mode & 0o777 == 0o644
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
