from __future__ import annotations

import base64
import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from client.ingest import open_cohort
from client.ingest.contact_sheet import Tile
from client.ingest.records import Reason, Skip
from client.ingest.report import ClassCount, IngestReport, account, study_identity
from client.ingest.report_page import attention, hu_figure, percent, render_page, report_files, settings_in_words

VOID = {"meta", "img", "rect", "line", "polygon", "br"}


class Checker(HTMLParser):
    """Collects text and attributes; every element that is opened must be closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "action", "data"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def study(make_study):
    return make_study(windows=[{"low": -200, "high": 300}])


@pytest.fixture
def report(study):
    skips = [Skip(f"Secret^{n}", Reason.UNEVEN_SPACING, "steps 1.0 to 7.5 mm") for n in range(3)]
    skips += [Skip(f"Secret^{n}", Reason.LOCALIZER) for n in range(3, 7)]
    edges = np.arange(-1200.0, 3001.0, 20.0)
    return IngestReport(
        study=study_identity(study),
        files=account(skips, frozenset(f"{n}" for n in range(93)), 100),
        series=20,
        corrected={"gantry tilt": 2},
        chosen_by={"kernel": 20},
        studies=20,
        patients=20,
        held_out=8,
        examples=60,
        classes={"no": ClassCount(40, 14, 6), "yes": ClassCount(20, 6, 2)},
        labels={"level": "patient", "data_without_row": 4},
        distributions={
            "vendor": {"Siemens": 15, "other": 5},
            "hu": {"edges": edges.tolist(), "counts": [5] * (len(edges) - 1)},
        },
    )


TILES = [Tile("no", "abc123", b"png-1"), Tile("yes", "def456", b"png-2")]


def test_the_page_is_whole_and_loads_nothing(report, study):
    page = Checker(render_page(report, study, TILES))
    assert "script" not in page.tags
    assert page.links == [f"data:image/png;base64,{base64.b64encode(tile.png).decode()}" for tile in TILES]
    assert {"svg", "table", "figure"} <= set(page.tags)


def test_the_page_says_what_the_report_says(report, study):
    text = Checker(render_page(report, study, TILES)).text
    for words in (
        "12 to train on, 8 held out",
        "93 of 100; 7 left out",
        "slices missing, or too far apart to interpolate",
        "steps 1.0 to 7.5 mm: 3",
        "Slices are missing. Export the whole series.",
        "Few patients of class 'yes': 4 to train on, 2 held out.",
        "4 patients without a label",
        "20 series chosen by: kernel",
        "2 series corrected: gantry tilt",
        "abc123",
        "-200 to 300 HU",
        report.study["cohort_digest"],
    ):
        assert words in text, words
    assert "Secret" not in text


def test_a_cohort_without_trouble_says_so(report, study):
    clean = dataclasses.replace(
        report,
        files=account([], frozenset("12"), 2),
        classes={"no": ClassCount(30, 15, 5), "yes": ClassCount(30, 15, 5)},
        labels={},
        distributions={},
        corrected={},
        chosen_by={},
    )
    text = Checker(render_page(clean, study, [])).text
    assert "Nothing stands out" in text
    assert "None: every file was used" in text
    assert "No example has this class" in text


def test_text_is_escaped(report, make_study):
    study = make_study(classes=["<script>alert(1)</script>", "b"])
    odd = dataclasses.replace(report, classes={study.task.classes[0]: ClassCount(1, 1, 0)})
    page = Checker(render_page(odd, study, [Tile(study.task.classes[0], "aaaaaa", b"")]))
    assert "script" not in page.tags
    assert "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("view", ["axial", "sagittal", "coronal"])
def test_every_view_says_how_to_read_it(report, make_study, view):
    study = make_study(view=view, planes=1, slice_spacing_mm=2.0)
    text = Checker(render_page(report, study, TILES)).text
    assert ("The head is at the top" in text) == (view != "axial")


def test_what_stands_out_is_pointed_at(report):
    labels = {"conflicting": {"count": 1, "lines": [2, 3]}, "unknown_classes": {"rows": 2, "values": []}}
    found = attention(dataclasses.replace(report, labels=labels, classes={"no": ClassCount(0, 0, 0)}))
    assert found == [
        "No patient has the class 'no'.",
        "3 files (3 %) left out for reasons that may be worth a look.",
        "1 id with two different classes left out.",
        "2 rows of the label table with a class that the study does not have.",
    ]


@pytest.mark.parametrize(("part", "whole", "text"), [(0, 5, "0 %"), (1, 1000, "< 1 %"), (1, 3, "33 %"), (0, 0, "0 %")])
def test_shares_are_written_in_percent(part, whole, text):
    assert percent(part, whole) == text


def test_the_curve_of_hounsfield_units_lies_within_its_frame(report, study):
    figure = hu_figure(report.distributions, study.input)
    points = np.array([[float(value) for value in pair.split(",")] for pair in figure["points"].split()])
    assert points[:, 0].min() >= 0
    assert points[:, 0].max() <= figure["width"]
    assert (points[:, 1] <= figure["height"]).all()
    (start, width) = figure["windows"][0]
    assert start == pytest.approx(640 * 1000 / 3200, abs=0.1)
    assert width == pytest.approx(640 * 500 / 3200, abs=0.1)
    for broken in ({}, {"hu": {"edges": [], "counts": []}}, {"hu": {"edges": [0, 1], "counts": [0]}}):
        assert hu_figure(broken, study.input) is None


def test_settings_are_told_in_words(make_study):
    study = make_study(kernels=["B*"], thickness_mm=1.5, denoise="median", normalise="clahe")
    assert dict(settings_in_words(study.input)) == {
        "View": "axial, slices as acquired, all planes of each volume",
        "Pixels": "32 x 32 of 2 mm",
        "Window": "-1000 to 1000 HU",
        "Preferred": "kernels B*; thickness near 1.5 mm",
        "Noise": "median",
        "Normalised": "clahe",
    }


def test_the_files_of_a_cohort_hold_its_contact_sheet(report, study, site, write_cohort, encrypting):
    for encrypt in (False, True):
        this = encrypting(site, encrypt)
        write_cohort(this, study)
        cohort = open_cohort(this, study)
        files = report_files(report, study, cohort.examples, cohort.patients, cohort.planes)
        assert IngestReport.from_json(files["ingest-report.json"]) == report
        page = Checker(files["ingest-report.html"].decode())
        assert len(page.links) == 10
        shown = set(re.findall(r"\b[0-9a-f]{6}\b", page.text))
        assert {bytes(one).hex()[:6] for one in cohort.patients["pseudonym"]} & shown
