from __future__ import annotations

from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict

from common.errors import CoordinatorError, RunError
from common.pki.keys import new_study_key, study_key_bytes
from server import app as module
from server.coordinator import COORDINATOR_VARIABLE
from server.run_folder import RUN_VARIABLE, RunFolder


@pytest.fixture
def call(monkeypatch, tmp_path, small_study):
    """Run the ServerApp's main for a run of this name; the folder and seed that it passes on."""
    study, seen = small_study(), []
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    monkeypatch.setattr(
        module, "run_study", lambda grid, study, folder, seed, home: seen.append((folder.root, seed, home.folder))
    )
    home = tmp_path / "coordinator"
    home.mkdir()
    (home / "coordinator.toml").write_text('title = "T"\naddress = "127.0.0.1:8443"\ncontrol = "127.0.0.1:8444"\n')
    (home / "study.key").write_bytes(study_key_bytes(new_study_key()))
    monkeypatch.setenv(COORDINATOR_VARIABLE, str(home))

    def main(run: str):
        folder = tmp_path / run
        if folder.is_relative_to(tmp_path) and ".." not in run:
            RunFolder(folder).prepare(study, tmp_path)
        config = {"study": study.digest, "seed": 7, "simulated": False, "run": run}
        module.main(SimpleNamespace(), Context(1, 1, {}, RecordDict(), config))
        return seen[0]

    return main


@pytest.mark.parametrize("run", ["", "small-20260301-123005"])
def test_the_run_folder_is_the_one_of_that_name(call, tmp_path, run):
    assert call(run) == (tmp_path / run, 7, tmp_path / "coordinator")


@pytest.mark.parametrize("run", ["..", "../other", "/etc", "a/b", ".hidden", "a\n", "A", "a" * 101])
def test_a_name_that_is_not_plain_is_refused(call, run):
    with pytest.raises(RunError, match="plain name"):
        call(run)


def test_a_run_without_a_folder_says_so(monkeypatch, call):
    monkeypatch.delenv(RUN_VARIABLE)
    with pytest.raises(RunError, match=RUN_VARIABLE):
        call("x")


def test_a_coordinators_run_without_a_coordinator_is_refused(monkeypatch, call):
    monkeypatch.delenv(COORDINATOR_VARIABLE)
    with pytest.raises(RunError, match=COORDINATOR_VARIABLE):
        call("x")


def test_a_run_that_nobody_could_sign_is_refused_before_anybody_is_asked(tmp_path, call):
    (tmp_path / "coordinator" / "study.key").unlink()
    with pytest.raises(CoordinatorError, match=r"study\.key"):
        call("x")
