"""Figures in words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import client.bundle
import client.policy
import client.received  # noqa: F401 - these define what a site may answer
from common.errors import DataError, PolicyRefusal, SiteError, StorageError
from server import asking, replies, roster, rounds
from server.report import words
from server.results import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [(8.0, "8"), (0.001, "0.001"), (1e-5, "10⁻⁵"), (3.2e-6, "3.2 × 10⁻⁶"), (2980.96, "2,981"), (None, "–"), (0, "0"),
     (-200, "−200"), (4.85e8, "4.85 × 10⁸"), (0.5, "0.5")],
)  # fmt: skip
def test_numbers_are_short_and_readable(value, text):
    assert words.figure(value) == text


@pytest.mark.parametrize(
    ("rounds", "text"), [([], ""), ([3], "3"), ([1, 2, 3, 7, 9, 10], "1–3, 7, 9–10"), ([5, 4], "4–5")]
)
def test_neighbouring_rounds_are_joined(rounds, text):
    assert words.spans(rounds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "under 1 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h")]
)
def test_durations_have_two_units_at_most(seconds, text):
    assert words.duration(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(("count", "text"), [(12, "12 bytes"), (44_700_000, "44.7 MB"), (1.34e11, "134 GB")])
def test_sizes_are_in_powers_of_1000(count, text):
    assert words.size(count).replace("\u00a0", " ") == text


def subclasses(kind):
    return {kind, *(below for one in kind.__subclasses__() for below in subclasses(one))}


def test_every_reason_that_a_site_or_the_coordinator_gives_for_a_missed_round_has_words():
    at_sites = {one.code for one in (*subclasses(PolicyRefusal), *subclasses(DataError), SiteError, StorageError)}
    assert {"policy-9-hours", "bundle-holds-code", "base-missing"} <= at_sites
    sources = "".join(Path(module.__file__).read_text() for module in (asking, replies, roster, rounds))
    coordinators = {"offline", "busy", "lost", "deadline", *re.findall(r'"([a-z]+(?:-[a-z]+)+)"', sources)}
    assert {"bad-reply", "wrong-site", "update-too-large"} <= coordinators
    assert {code for code in at_sites | coordinators if words.reason(code) == code} == set()


def test_an_estimate_without_a_value_says_why():
    assert words.value(Estimate(note="few-cases", cases=3, hits=2)) == "too few cases"
    assert words.basis(Estimate(note="few-cases", cases=3, hits=2)) == "2 of 3"
    assert words.value(Estimate(note="noise", cases=30)) == "lost in the noise"
    assert words.basis(Estimate(note="noise", cases=30, hits=8)) == ""
    assert words.value(None) == "–"
    assert words.interval(Estimate(value=0.5)) == ""


def test_an_unknown_reason_is_shown_as_it_is():
    assert words.reason("budget-exceeded") == "its privacy budget would have been overrun"
    assert words.reason("something-new") == "something-new"


def test_a_list_reads_as_one():
    assert [words.joined(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_noised_cases_are_about():
    assert words.cases(58.2, Estimate(value=0.5), 0.0) == "58.2"
    assert words.cases(58.2, Estimate(value=0.5), 2.0) == "≈\u00a058"
    assert words.cases(58.2, Estimate(note="noise"), 90.0) == "–"


@pytest.mark.parametrize(
    ("difference", "shown", "limits"),
    [
        (Estimate(value=0.031, low=-0.04, high=0.098, cases=9), "+3.1", "−4.0 to 9.8"),
        (Estimate(value=-0.2, low=-0.3, high=-0.1, cases=9), "−20.0", "−30.0 to −10.0"),
        (Estimate(cases=3, note="few-cases"), "too few cases", ""),
    ],
)
def test_differences_are_shown_in_points_with_their_sign(difference, shown, limits):
    assert (words.points(difference), words.points_interval(difference)) == (shown, limits)
