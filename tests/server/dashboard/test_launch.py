"""Launching on the page: checked as it is typed, forecast before it starts, and started as the command starts it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import server.dashboard
from common.pki.signature import signature_file
from common.study import study_from_toml

STARTER = (Path(server.dashboard.__file__).parent / "starter.toml").read_text()


def test_the_study_to_start_from_is_valid_and_its_cost_is_what_it_claims(page, past):
    text = page(past).browser().text("/launch")
    study = study_from_toml(STARTER)
    assert "This study can be launched" in text
    assert f"after round {study.federation.rounds}" in text
    assert re.search(r"ε (7\.9\d|8\.00) ", text)
    assert "as in spine-going" in text, "the same work was done there"
    assert study.digest in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("rounds = 30", "rounds = 0"), "federation.rounds = 0"),
        (("format = 1", ""), "format"),
        (("[task]", "[task"), "not valid TOML"),
        (("epsilon = 8.0", "epsilon = 8.0\ncolour = 1"), "privacy.colour = 1: unknown key"),
        (('unit = "patient"', 'unit = "slice"'), "privacy.unit"),
        (('name = "my-study"', 'name = "../../x"'), "name"),
        (('title = "What the model tells apart"', "title = 3"), "title = 3"),
    ],
)
def test_what_is_wrong_is_said_as_it_is_typed_and_nothing_can_be_started(page, past, change, said):
    shown = (
        page(past).browser().post("/launch/check", {"study": STARTER.replace(*change)}, headers={"hx-request": "true"})
    )
    assert shown.status_code == 200
    assert said in shown.text
    assert "Sign and start" not in shown.text
    assert "<html" not in shown.text


def test_text_of_a_study_is_no_markup(page, past):
    evil = STARTER.replace("What the model tells apart", "</textarea><script>alert(1)</script>")
    browser = page(past).browser()
    for path in ("/launch/check", "/launch"):
        assert "<script>alert" not in browser.post(path, {"study": evil}).text


def test_a_study_is_taken_from_a_file(page, past):
    shown = (
        page(past).browser().post("/launch/read", files={"file": ("s.toml", STARTER.replace("my-study", "from-file"))})
    )
    assert "from-file" in shown.text


@pytest.fixture
def started(monkeypatch):
    """What was started, instead of a SuperLink's doing it."""
    found = []

    def start(daemon, study, base, *, seed, now):
        found.append((study, base, seed))
        return SimpleNamespace(folder=SimpleNamespace(root=Path(f"/runs/{study.name}-1")), run=1)

    monkeypatch.setattr("server.dashboard.launch.start", start)
    return found


def test_what_is_started_is_signed_and_is_the_study_whose_forecast_was_shown(page, fresh, started):
    served = page(fresh)
    browser = served.browser()
    shown = browser.post("/launch/check", {"study": STARTER}).text
    digest = re.search(r'name="digest" value="([0-9a-f]{64})"', shown)[1]
    other = STARTER.replace("epsilon = 8.0", "epsilon = 80.0")
    refused = browser.post("/launch", {"study": other, "digest": digest})
    assert refused.status_code == 409
    assert "changed after its forecast" in refused.text
    assert browser.post("/launch", {"study": STARTER}).status_code == 409
    assert started == []
    crlf = STARTER.replace("\n", "\r\n")
    assert (
        browser.post("/launch", {"study": crlf, "digest": digest, "seed": "3"}).headers["location"]
        == "/studies/my-study-1"
    )
    ((study, base, seed),) = started
    assert (study.digest, seed) == (digest, 3)
    assert signature_file(base / "my-study.toml").is_file()
    assert served.actions[-1].note == f"launched my-study-1, {digest}"


def test_without_a_superlink_a_launch_says_so_and_leaves_no_run(page, fresh):
    browser = page(fresh).browser()
    digest = study_from_toml(STARTER).digest
    shown = browser.post("/launch", {"study": STARTER, "digest": digest})
    assert shown.status_code == 409
    assert "fedct-coordinator start" in shown.text
    assert "No study yet" in browser.text("/")
