from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from common.pki.address import Address
from common.pki.keys import study_public
from common.pki.signature import verify_study
from server.ca import create
from server.cli import main, start
from server.launch import Launched
from server.run_folder import RunFolder


@pytest.fixture
def coordinator(tmp_path):
    return create(tmp_path / "here", "C", Address("ct.example", 8443), "correct horse battery", datetime.now(UTC))


@pytest.fixture
def call(typed):

    return typed(main, "fedct-coordinator")


def test_start_serves_the_coordinator_of_the_folder(call, coordinator, monkeypatch):
    seen = []
    monkeypatch.setattr(sys.modules[start.__module__], "told_by_signals", lambda: None)
    monkeypatch.setattr("server.daemon.run", lambda opened, host, *_: seen.append((opened, host)))
    code, shown, _ = call("start", "--dir", "here", "--bind", "192.0.2.1")
    assert (code, seen) == (0, [(coordinator, "192.0.2.1")])
    assert "Serving sites at ct.example:8443" in shown


def test_launch_signs_the_study_as_sign_does_and_starts_it(
    call, coordinator, monkeypatch, tmp_path, small_study, study_file
):
    study, seen = small_study(), []
    study_file(tmp_path / "study.toml", study)
    monkeypatch.setattr(
        "server.launch.launch",
        lambda daemon, plan, *_, **__: seen.append((daemon.folder, plan)) or Launched(RunFolder(tmp_path / "r"), 7),
    )
    code, shown, _ = call("launch", "study.toml", "--dir", "here")
    assert (code, seen) == (0, [(coordinator.folder, study)])
    assert "Flower's run 7" in shown
    launched = (tmp_path / "study.toml.sig").read_text()
    verify_study(study, launched, study_public(coordinator.study_key()))
    assert call("sign", "study.toml", "--dir", "here")[0] == 0
    assert (tmp_path / "study.toml.sig").read_text() == launched
