"""Launching on the page: checked as it is typed, forecast before it starts, and started as the command starts it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import server.dashboard
from common.pki.keys import study_public
from common.pki.signature import signature_file, verify_study
from common.study import study_from_toml

STARTER = (Path(server.dashboard.__file__).parent / "starter.toml").read_text()


def test_the_study_to_start_from_is_valid_and_its_cost_is_what_it_claims(page, past):
    text = page(past).browser().text("/launch")
    study = study_from_toml(STARTER)
    assert "This study can be signed" in text
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
def test_what_is_wrong_is_said_as_it_is_typed_and_nothing_can_be_signed(page, past, change, said):
    shown = (
        page(past).browser().post("/launch/check", {"study": STARTER.replace(*change)}, headers={"hx-request": "true"})
    )
    assert shown.status_code == 200
    assert said in shown.text
    assert "Sign it" not in shown.text
    assert "<html" not in shown.text


def test_text_of_a_study_is_no_markup(page, past):
    evil = STARTER.replace("What the model tells apart", "</textarea><script>alert(1)</script>")
    browser = page(past).browser()
    for path in ("/launch/check", "/launch/sign"):
        assert "<script>alert" not in browser.post(path, {"study": evil}).text


def test_a_study_is_taken_from_a_file(page, past):
    shown = (
        page(past).browser().post("/launch/read", files={"file": ("s.toml", STARTER.replace("my-study", "from-file"))})
    )
    assert "from-file" in shown.text


def signed(browser, text=STARTER):
    """Sign a study as a person does; the digest that was shown."""
    shown = browser.post("/launch/check", {"study": text}).text
    digest = re.search(r'name="digest" value="([0-9a-f]{64})"', shown)[1]
    answer = browser.post("/launch/sign", {"study": text.replace("\n", "\r\n"), "digest": digest})
    assert answer.headers["location"] == "/launch/signed/my-study"
    return digest


@pytest.fixture
def started(monkeypatch):
    """What was started, instead of a SuperLink's doing it."""
    found = []

    def start(daemon, study, base, *, seed, now):
        found.append((study, base, seed))
        return SimpleNamespace(folder=SimpleNamespace(root=Path(f"/runs/{study.name}-1")), run=1)

    monkeypatch.setattr("server.dashboard.signed.begin", start)
    return found


def test_what_is_signed_is_the_study_whose_forecast_was_shown_and_its_files_are_what_a_hospital_checks(page, fresh):
    served = page(fresh)
    browser = served.browser()
    digest = study_from_toml(STARTER).digest
    refused = browser.post(
        "/launch/sign", {"study": STARTER.replace("epsilon = 8.0", "epsilon = 80.0"), "digest": digest}
    )
    assert refused.status_code == 409
    assert "changed after its forecast" in refused.text
    assert browser.post("/launch/sign", {"study": STARTER}).status_code == 409
    assert "Signed studies" not in browser.text("/launch")
    assert signed(browser) == digest
    assert served.actions[-1].note == f"signed my-study, {digest}"
    study, signature = (browser.get(f"/launch/signed/my-study/{file}") for file in ("study", "signature"))
    assert 'filename="my-study.toml"' in study.headers["content-disposition"]
    assert 'filename="my-study.toml.sig"' in signature.headers["content-disposition"]
    key = study_public(fresh.study_key())
    verify_study(study_from_toml(study.text), signature.text, key)
    assert "Signed studies" in browser.text("/launch")


def test_what_is_started_is_the_signed_study_that_was_looked_at(page, fresh, started):
    served = page(fresh)
    browser = served.browser()
    digest = signed(browser)
    assert digest in browser.text("/launch/signed/my-study")
    other = signed(browser, STARTER.replace("rounds = 30", "rounds = 31"))
    changed = browser.post("/launch/signed/my-study/start", {"digest": digest})
    assert changed.status_code == 409
    assert "Another study was signed under this name" in changed.text
    assert started == []
    gone = browser.post("/launch/signed/my-study/start", {"digest": other, "seed": "3"})
    assert gone.headers["location"] == "/studies/my-study-1"
    ((study, base, seed),) = started
    assert (study.digest, seed) == (other, 3)
    assert signature_file(base / "my-study.toml").is_file()
    assert served.actions[-1].note == f"launched my-study-1, {other}"


def test_a_file_that_is_not_as_it_was_signed_is_offered_to_nobody(page, fresh, started):
    browser = page(fresh).browser()
    digest = signed(browser)
    file = fresh.folder / "studies" / "my-study.toml"
    file.write_text(file.read_text().replace("epsilon = 8.0", "epsilon = 80.0"))
    for path in ("", "/study", "/signature"):
        assert browser.get(f"/launch/signed/my-study{path}").status_code == 404
    assert browser.post("/launch/signed/my-study/start", {"digest": digest}).status_code == 404
    assert "Signed studies" not in browser.text("/launch")
    assert started == []


@pytest.mark.parametrize("name", ["nothing", "..%2f..%2fstudy", "%2e%2e", "MY-STUDY"])
def test_there_is_no_other_file_to_be_had(page, fresh, name):
    browser = page(fresh).browser()
    signed(browser)
    assert browser.get(f"/launch/signed/{name}/study").status_code in (404, 422)
    assert browser.get("/launch/signed/my-study/key").status_code == 422


def test_a_viewer_neither_signs_nor_takes_the_files(page, fresh):
    browser = page(fresh, roles=("viewer",)).browser("viewer")
    digest = study_from_toml(STARTER).digest
    assert browser.post("/launch/sign", {"study": STARTER, "digest": digest}).status_code == 403
    assert browser.get("/launch/signed/my-study").status_code == 403
    assert not (fresh.folder / "studies").exists()


def test_without_a_superlink_a_start_says_so_and_leaves_no_run(page, fresh):
    browser = page(fresh).browser()
    shown = browser.post("/launch/signed/my-study/start", {"digest": signed(browser)})
    assert shown.status_code == 409
    assert "fedct-coordinator start" in shown.text
    assert "No study yet" in browser.text("/")
