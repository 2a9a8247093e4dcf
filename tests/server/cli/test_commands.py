"""fedct-coordinator, as it is typed."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import re
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
import safetensors.numpy

from common.errors import CoordinatorError, RunError, StudyError, TrustError, UsageError
from common.models.weights import initial_model, to_vector
from common.pki.invitation import open_invitation
from common.pki.keys import new_p384_key, node_public, study_public
from common.pki.request import make_request, node_fingerprint
from common.pki.signature import verify_study
from common.study import load_study
from server import checkpoints
from server.checkpoints import Checkpoint
from server.cli import main, options
from server.coordinator import open_coordinator
from server.results import Participation, RoundRecord
from server.run_folder import RunFolder

PASSPHRASE = "correct horse battery"


@pytest.fixture
def call(typed, monkeypatch):
    """Type ``fedct-coordinator ...`` in a folder of its own; the exit code, and what stood on the two outputs."""
    monkeypatch.setenv("FEDCT_PASSPHRASE", PASSPHRASE)

    return typed(main, "fedct-coordinator")


@pytest.fixture
def ready(call, tmp_path):
    """A coordinator in ``here``, and its invitation of St. Anna."""
    assert call("init", "here", "--address", "127.0.0.1:8443", "--title", "University")[0] == 0
    made = open_coordinator(tmp_path / "here")
    text = (made.folder / "coordinator.toml").read_text()
    (made.folder / "coordinator.toml").write_text(re.sub(r"control = .*", 'control = "127.0.0.1:1"', text))
    assert call("invite", "St. Anna", "--out", "st-anna.invite", "--dir", "here")[0] == 0
    return open_coordinator(tmp_path / "here")


def answer(tmp_path, key=None) -> str:
    invitation = open_invitation((tmp_path / "st-anna.invite").read_bytes(), datetime.now(UTC))
    (tmp_path / "st-anna.request").write_text(make_request(invitation, key or new_p384_key()))
    return invitation.fingerprint


def test_from_init_to_an_admitted_site_and_its_end(call, ready, tmp_path):
    key = new_p384_key()
    fingerprint = answer(tmp_path, key)
    code, shown, _ = call("admit", "st-anna.request", "--dir", "here", "--yes")
    assert code == 0
    assert f"Site 'st-anna' asks to join with the node key {node_fingerprint(node_public(key))}" in shown
    assert "The SuperLink is not running; it learns of this when it starts" in shown
    code, shown, _ = call("status", "--dir", "here", "--json")
    content = json.loads(shown)
    assert (code, content["title"], content["fingerprint"]) == (0, "University", fingerprint)
    assert [(site["site"], site["title"], site["standing"]) for site in content["sites"]] == [
        ("st-anna", "St. Anna", "admitted")
    ]
    assert {c["name"]: c["days"] for c in content["certificates"]} == {"server": 397, "authority": 3649}
    assert (content["warnings"], content["serving"], content["nodes"]) == ([], False, {})
    code, shown, _ = call("revoke", "st-anna", "--dir", "here")
    assert (code, "Site 'st-anna' is revoked" in shown) == (0, True)
    assert "revoked" in call("status", "--dir", "here")[1]


def test_init_and_invite_show_the_fingerprint_that_the_hospital_sees(call, tmp_path):
    code, shown, _ = call("init", "here", "--address", "127.0.0.1:8443")
    assert code == 0
    (told,) = re.findall(r"Fingerprint.*: ((?:[0-9a-f]{4} ){7}[0-9a-f]{4})\n", shown)
    shown = call("invite", "St. Anna", "--out", "st-anna.invite", "--dir", "here")[1]
    assert told in shown
    assert answer(tmp_path) == told


def test_an_invitation_is_its_owners_alone_since_it_holds_the_token(ready, tmp_path):
    assert (tmp_path / "st-anna.invite").stat().st_mode & 0o777 == 0o600
    token = open_invitation((tmp_path / "st-anna.invite").read_bytes(), datetime.now(UTC)).token
    assert token not in (ready.folder / "registry.sqlite").read_bytes().decode("latin-1")


def test_nobody_is_admitted_before_somebody_compared_the_fingerprint(call, ready, tmp_path, monkeypatch):
    answer(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, _, errors = call("admit", "st-anna.request", "--dir", "here")
    assert (code, "then give --yes" in errors) == (UsageError.exit_code, True)
    assert json.loads(call("status", "--dir", "here", "--json")[1])["sites"][0]["standing"] == "invited"


def test_a_request_that_is_refused_is_one_line_with_its_exit_code(call, ready, tmp_path):
    answer(tmp_path)
    assert call("admit", "st-anna.request", "--dir", "here", "--yes")[0] == 0
    code, _, errors = call("admit", "st-anna.request", "--dir", "here", "--yes")
    assert code == TrustError.exit_code
    assert len(errors.splitlines()) == 1
    assert "already" in errors
    assert call("admit", "none", "--dir", "here", "--yes")[0] == UsageError.exit_code
    (tmp_path / "big").write_bytes(b"x" * 10_000_000)
    assert call("admit", "big", "--dir", "here", "--yes")[0] == TrustError.exit_code


def test_something_else_at_the_operators_port_is_said_after_the_site_is_admitted(call, ready, tmp_path, monkeypatch):
    def refuses(*_, **__):
        raise RunError("Flower did not register the nodes")

    monkeypatch.setattr("server.enrolment.register_nodes", refuses)
    answer(tmp_path)
    assert call("admit", "st-anna.request", "--dir", "here", "--yes")[0] == RunError.exit_code
    assert json.loads(call("status", "--dir", "here", "--json")[1])["sites"][0]["standing"] == "admitted"


def test_status_warns_of_a_certificate_before_it_ends_and_renew_ends_the_warning(call, ready, monkeypatch):
    late = datetime.now(UTC) + timedelta(days=380)
    for module in ("status", "renew"):
        monkeypatch.setattr(importlib.import_module(f"server.cli.{module}"), "now", lambda: late)
    code, shown, errors = call("status", "--dir", "here")
    assert (code, "17 days left" in shown) == (0, True)
    assert "Warning: the server's certificate ends in 17 days: run 'fedct-coordinator renew'" in errors
    assert json.loads(call("status", "--dir", "here", "--json")[1])["warnings"]
    code, shown, _ = call("renew", "--dir", "here")
    assert (code, "(397 days)" in shown) == (0, True)
    assert call("status", "--dir", "here")[2] == ""


def test_a_passphrase_comes_from_a_file_the_environment_or_a_person(call, monkeypatch, tmp_path):
    (tmp_path / "pass").write_text("from the file, long\n")
    assert options.passphrase(tmp_path / "pass", new=True) == "from the file, long"
    assert options.passphrase(None, new=True) == PASSPHRASE
    monkeypatch.delenv("FEDCT_PASSPHRASE")
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, _, errors = call("init", "here", "--address", "h.example:1")
    assert (code, "Give --passphrase-file, or set FEDCT_PASSPHRASE" in errors) == (UsageError.exit_code, True)
    assert not (tmp_path / "here").exists()
    code, _, errors = call("init", "here", "--address", "h.example:1", "--passphrase-file", "none")
    assert (code, "'none' does not exist" in errors) == (UsageError.exit_code, True)


def test_a_wrong_passphrase_is_one_line(call, ready, monkeypatch):
    monkeypatch.setenv("FEDCT_PASSPHRASE", "wrong horse battery")
    code, _, errors = call("renew", "--dir", "here")
    assert (code, len(errors.splitlines())) == (TrustError.exit_code, 1)


def test_sign_writes_what_a_hospital_verifies(call, ready, tmp_path, study_file, small_study):
    study_file(tmp_path / "study.toml", small_study())
    code, shown, _ = call("sign", "study.toml", "--dir", "here")
    study = load_study(tmp_path / "study.toml")
    assert (code, study.digest in shown) == (0, True)
    verify_study(study, (tmp_path / "study.toml.sig").read_text(), study_public(ready.study_key()))
    assert call("sign", "none.toml", "--dir", "here")[0] == StudyError.exit_code


@pytest.mark.parametrize(
    "words",
    [
        *(["status"], ["renew"], ["revoke", "x"], ["invite", "X", "--out", "x"], ["start"], ["runs"], ["stop", "x"]),
        *(["resume", "x"], ["rounds", "x"], ["logs", "x"], ["model", "x", "--out", "y"]),
    ],
    ids=lambda words: words[0],
)
def test_a_folder_that_is_no_coordinators_is_refused_by_every_command(call, words, tmp_path):
    code, _, errors = call(*words)
    assert (code, len(errors.splitlines())) == (CoordinatorError.exit_code, 1)
    assert "coordinator.toml' does not exist" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["host", "host:0", "http://host:1"])
def test_a_bad_address_makes_nothing(call, address, tmp_path):
    code, _, errors = call("init", "here", "--address", address)
    assert (code, "HOST:PORT" in errors) == (UsageError.exit_code, True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def run(ready, small_study, tmp_path):
    """A run 'first' of two complete rounds, in whose third one of two sites has answered."""
    study = small_study(model={"trainable": "head"}, federation={"rounds": 3})
    folder = RunFolder(ready.folder / "runs" / "first")
    folder.root.mkdir(parents=True)
    folder.prepare(study, tmp_path)
    weights = to_vector(initial_model(study, 0))
    records = []
    for round_ in (1, 2):
        parts = (Participation(site="a", status="ok"), Participation(site="b", status="late", reason="deadline"))
        records.append(RoundRecord(round=round_, seconds=61.2, bytes_down=2_000_000, bytes_up=4, participation=parts))
        last = Checkpoint(study.digest, 0, datetime.now(UTC), round_, weights, records=tuple(records))
        checkpoints.save(folder.inner, last)
        missed = [["b", "late", "deadline"]]
        folder.event(
            "round", round=round_, seconds=61.2, model_round=None, accuracy=None, took_part=1, missed=missed, of=3
        )
    for site in ("a", "b"):
        folder.event("asked", round=3, site=site, what="train", sending=1)
    folder.event("reply", round=3, site="a", status="ok", reason="", seconds=1.25)
    return folder, study, weights


def test_rounds_names_who_did_not_take_part_and_the_round_under_way(call, run):
    code, shown, _ = call("rounds", "first", "--dir", "here")
    assert code == 0
    assert shown.count("b late (deadline)") == 2
    assert shown.count(" 1/2 ") == 2
    assert "Round 3 is under way: 1 of 2 sites have answered" in shown
    content = json.loads(call("rounds", "first", "--dir", "here", "--json")[1])
    assert [(record["round"], record["bytes_up"]) for record in content] == [(1, 4), (2, 4)]
    assert content[0]["participation"][1] == {"site": "b", "status": "late", "reason": "deadline", "seconds": None}


def test_logs_are_one_line_an_event_and_follow_a_run_to_its_end(call, run):
    folder, _, _ = run
    lines = call("logs", "first", "--dir", "here")[1].splitlines()
    assert [line.split("  ", 1)[1] for line in lines[2:]] == [
        "asked  round 3  a  what=train  sending=1",
        "asked  round 3  b  what=train  sending=1",
        "reply  round 3  a  status=ok  seconds=1.25",
    ]
    threading.Timer(0.5, folder.event, ("end",), {"outcome": "failed", "reason": "too few"}).start()
    code, shown, _ = call("logs", "first", "-f", "--dir", "here")
    assert (code, len(shown.splitlines())) == (0, 6)
    assert shown.endswith("end  outcome=failed  reason=too few\n")


def test_model_writes_the_newest_one_with_its_digests_and_nothing_over(call, run, tmp_path):
    _, study, weights = run
    code, shown, _ = call("model", "first", "--out", "m.safetensors", "--dir", "here")
    assert code == 0
    content = (tmp_path / "m.safetensors").read_bytes()
    assert "after round 2 of 3" in shown
    assert hashlib.sha256(content).hexdigest() in shown
    assert study.digest in shown
    assert sum(one.size for one in safetensors.numpy.load(content).values()) == weights.size
    code, _, errors = call("model", "first", "--out", "m.safetensors", "--dir", "here")
    assert (code, "exists already" in errors) == (UsageError.exit_code, True)
    assert (tmp_path / "m.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    "words", [["rounds"], ["logs"], ["stop"], ["resume"], ["model", "--out", "x"]], ids=lambda w: w[0]
)
def test_a_run_that_there_is_not_is_one_line(call, ready, words):
    code, _, errors = call(words[0], "none", *words[1:], "--dir", "here")
    assert (code, len(errors.splitlines())) == (UsageError.exit_code, 1)
    assert "there is no run 'none'" in errors


def test_resume_without_a_superlink_says_what_to_do(call, run):
    code, _, errors = call("resume", "first", "--dir", "here")
    assert (code, "fedct-coordinator start" in errors) == (RunError.exit_code, True)
    assert "resumed" not in call("logs", "first", "--dir", "here")[1]
