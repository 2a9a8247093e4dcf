from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from common.errors import CoordinatorError, RunError, UsageError
from common.flower_env import free_port
from common.pki.address import Address, parse_address
from server import daemon as module
from server.bundle import bundle_files
from server.ca import create
from server.control import NotRunning, Run
from server.coordinator import COORDINATOR_VARIABLE, Coordinator
from server.daemon import Daemon, run, services
from server.launch import launch, resume
from server.resume import ATTEMPTS, interrupted
from server.run_folder import RUN_VARIABLE, Launch
from server.runs import run_names, standing, stop_run
from server.superlink import Listener

NOW = datetime(2026, 3, 1, 12, 30, 5, tzinfo=UTC)


@pytest.fixture
def daemon(tmp_path):
    return Daemon(tmp_path, 4243)


@pytest.fixture
def coordinator(tmp_path):
    """A coordinator of its own ports, 127.0.0.1."""
    made = create(tmp_path / "c", "C", Address("127.0.0.1", free_port()), "correct horse battery", NOW)
    return Coordinator(made.folder, made.config.model_copy(update={"control": f"127.0.0.1:{free_port()}"}))


@pytest.fixture
def listener(tmp_path):
    for name in ("server.crt", "server.key"):
        (tmp_path / name).write_text("")
    return Listener("0.0.0.0", 8443, tmp_path / "server.crt", tmp_path / "server.key")


def test_the_executor_and_operators_stay_on_loopback_and_sites_come_to_the_public_address(daemon, listener):
    link, executor = services(daemon, listener)
    assert link.command[link.command.index("--host") + 1] == "0.0.0.0"
    assert link.command[link.command.index("--loopback-port") + 1] == "4243"
    assert executor.command[executor.command.index("--runtime-api-address") + 1] == "127.0.0.1:4243"
    assert executor.environment[RUN_VARIABLE] == str(daemon.runs)
    assert executor.environment[COORDINATOR_VARIABLE] == str(daemon.folder)
    for service in (link, executor):
        assert "-P" in service.command
        assert service.folder == daemon.superlink / "empty"


def test_secrets_are_made_once_and_are_the_owners_alone(daemon):
    daemon.prepare()
    before = {path.name: path.read_bytes() for path in daemon.superlink.glob("*.secret")}
    daemon.prepare()
    assert {path.name: path.read_bytes() for path in daemon.superlink.glob("*.secret")} == before
    assert len(set(before.values())) == 2
    for name in before:
        assert (daemon.superlink / name).stat().st_mode & 0o777 == 0o600
    assert daemon.superlink.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("missing", ["server.crt", "server.key", "registry.sqlite"])
def test_a_coordinator_that_lacks_a_file_does_not_start(coordinator, missing):
    (coordinator.folder / missing).unlink()
    with pytest.raises(CoordinatorError, match=missing):
        run(coordinator, "127.0.0.1", threading.Event(), print)
    assert not (coordinator.folder / "superlink").exists()


@pytest.mark.parametrize("taken", ["address", "control"])
@pytest.mark.failure(
    "a second coordinator on one folder",
    seen='"can\'t listen on" its address; exit code 8',
    ends="the first goes on",
    ledgers="nothing",
)
def test_a_coordinator_whose_address_is_taken_does_not_start(coordinator, taken):
    port = parse_address(getattr(coordinator.config, taken)).port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(RunError, match=f"127.0.0.1:{port}"):
        run(coordinator, "127.0.0.1", threading.Event(), print)
    assert not (coordinator.folder / "superlink").exists()


def test_a_launch_without_a_superlink_says_what_to_do_and_leaves_no_run(daemon, small_study, tmp_path):
    with pytest.raises(RunError, match="fedct-coordinator start"):
        launch(daemon, small_study(), tmp_path, seed=0, now=NOW)
    daemon.prepare()
    with pytest.raises(RunError, match="no SuperLink listens"):
        launch(daemon, small_study(), tmp_path, seed=0, now=NOW)
    assert run_names(daemon) == []


class FakeLink:
    """A SuperLink that accepts, or refuses, and knows ``known`` runs."""

    def __init__(self, known=(), error=None) -> None:
        self.known, self.error, self.files, self.stopped = list(known), error, None, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def start_run(self, files):
        if self.error:
            raise self.error
        self.files = files
        return 99

    def runs(self):
        return self.known

    def stop_run(self, number):
        self.stopped.append(number)
        return True


@pytest.fixture
def link(monkeypatch):
    found = FakeLink()
    monkeypatch.setattr(Daemon, "control", lambda self: found)
    return found


def test_a_launch_names_the_run_by_study_and_time_and_sends_no_code(daemon, link, small_study, tmp_path):
    study = small_study()
    started = launch(daemon, study, tmp_path, seed=3, now=NOW)
    assert started.folder.root == daemon.runs / "small-20260301-123005"
    assert started.folder.study(study.digest) == study
    assert link.files == bundle_files(study, 3, simulated=False, run="small-20260301-123005")
    assert not [name for name in link.files if name.endswith(".py")]
    assert run_names(daemon) == ["small-20260301-123005"]


def test_two_launches_in_one_second_do_not_share_a_folder(daemon, link, small_study, tmp_path):
    launch(daemon, small_study(), tmp_path, seed=0, now=NOW)
    with pytest.raises(RunError, match="exists already"):
        launch(daemon, small_study(), tmp_path, seed=0, now=NOW)


def test_a_launch_that_flower_refuses_leaves_no_run(daemon, link, small_study, tmp_path):
    link.error = RunError("no")
    with pytest.raises(RunError, match="no"):
        launch(daemon, small_study(), tmp_path, seed=0, now=NOW)
    assert run_names(daemon) == []


ROUND = {"seconds": 20.0, "model_round": None, "accuracy": None, "took_part": 2, "missed": []}
EVENTS = [{"event": "round", "time": "2026-03-01T12:31:00+00:00", "round": n, **ROUND} for n in (1, 2)]
END = {"event": "end", "outcome": "failed", "reason": "too few"}
RESUMED = {"event": "resumed", "round": 3}


@pytest.mark.parametrize(
    ("events", "known", "state", "reason"),
    [
        pytest.param([], {99: Run(99, "running")}, "running", "", id="under way"),
        pytest.param([], {99: Run(99, "pending")}, "running", "", id="not yet begun"),
        pytest.param([END], {99: Run(99, "running")}, "failed", "too few", id="ended, as it said itself"),
        pytest.param([END, {**END, "reason": "again"}], {}, "failed", "too few", id="the first word counts"),
        pytest.param([{**END, "outcome": "finished", "reason": ""}], None, "finished", "", id="finished"),
        pytest.param([], {99: Run(99, "finished:stopped")}, "stopped", "", id="stopped"),
        pytest.param([], {99: Run(99, "finished:failed")}, "interrupted", "resume small", id="killed"),
        pytest.param([], {}, "interrupted", "resume small", id="a run that the SuperLink does not know"),
        pytest.param([END, RESUMED], {99: Run(99, "running")}, "running", "", id="failed, and resumed"),
        pytest.param([END, RESUMED, {**END, "reason": "again"}], None, "failed", "again", id="failed twice"),
        pytest.param([], None, "unknown", "", id="no SuperLink to ask"),
    ],
)
def test_a_run_stands_as_it_said_itself_or_as_the_superlink_says(
    daemon, link, small_study, tmp_path, events, known, state, reason
):
    folder = launch(daemon, small_study(), tmp_path, seed=0, now=NOW).folder
    folder.events_file.write_text("".join(json.dumps(event) + "\n" for event in [*EVENTS, *events]) + '{"half')
    found = standing("small", folder, known)
    assert (found.state, found.round, found.rounds) == (state, 2, 2)
    assert reason in found.reason


def test_stop_ends_the_run_of_that_name_and_no_other(daemon, link, small_study, tmp_path):
    launch(daemon, small_study(), tmp_path, seed=0, now=NOW)
    with pytest.raises(UsageError, match="nosuch"):
        stop_run(daemon, "nosuch")
    link.known = [Run(98, "running"), Run(99, "running")]
    assert stop_run(daemon, "small-20260301-123005")
    assert link.stopped == [99]
    link.known = [Run(99, "finished:completed")]
    assert not stop_run(daemon, "small-20260301-123005")


def test_a_run_that_the_superlink_has_not_answered_for_is_not_stopped_by_number_zero(
    daemon, link, small_study, tmp_path
):
    folder = launch(daemon, small_study(), tmp_path, seed=0, now=NOW).folder
    (folder.inner / "launch.json").unlink()
    assert not stop_run(daemon, "small-20260301-123005")
    assert link.stopped == []


NAME = "small-20260301-123005"


@pytest.fixture
def started(daemon, link, small_study, tmp_path):
    """A run of a study with seed 3, Flower's number 99, that the SuperLink says has failed; two rounds were complete."""
    daemon.prepare()
    folder = launch(daemon, small_study(), tmp_path, seed=3, now=NOW).folder
    folder.events_file.write_text("".join(json.dumps(event) + "\n" for event in EVENTS))
    link.known, link.files = [Run(99, "finished:failed")], None
    return folder


def test_resume_starts_the_same_study_with_the_same_seed_in_the_same_folder(daemon, link, small_study, started):
    assert resume(daemon, NAME).folder.root == started.root
    assert link.files == bundle_files(small_study(), 3, simulated=False, run=NAME)
    assert started.launch() == Launch(3, 99)
    assert standing(NAME, started, {99: Run(99, "running")}).state == "running"


@pytest.mark.parametrize(
    ("event", "known", "expected"),
    [
        pytest.param(None, Run(99, "running"), "is under way", id="under way"),
        pytest.param({**END, "outcome": "finished", "reason": ""}, None, "has finished", id="finished"),
    ],
)
def test_a_run_that_goes_on_or_has_finished_is_not_resumed(daemon, link, started, event, known, expected):
    link.known = [known] if known else []
    if event:
        started.events_file.write_text(json.dumps(event) + "\n")
    with pytest.raises(UsageError, match=expected):
        resume(daemon, NAME)
    assert link.files is None


def test_a_run_that_does_not_exist_is_not_resumed(daemon, link):
    with pytest.raises(UsageError, match="no run 'x'"):
        resume(daemon, "x")


@pytest.mark.failure(
    "a process that dies in every attempt",
    seen="`runs`: interrupted, and how to resume",
    ends="left after two attempts without a complete round",
    ledgers="charged for each attempt",
)
def test_a_run_that_ended_without_a_word_goes_on_by_itself_but_not_for_ever(daemon, link, started):
    known = {99: Run(99, "finished:failed")}
    for _ in range(ATTEMPTS):
        assert interrupted(daemon, known) == [NAME]
        resume(daemon, NAME)
        link.known = [Run(99, "finished:failed")]
    assert interrupted(daemon, known) == []
    started.event("round", round=3, **ROUND)
    assert interrupted(daemon, known) == [NAME]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        pytest.param(END, "finished:failed", id="it failed, and said so"),
        pytest.param(None, "finished:stopped", id="a person stopped it"),
        pytest.param(None, "running", id="it is under way"),
    ],
)
def test_no_other_run_goes_on_by_itself(daemon, started, event, status):
    if event:
        with started.events_file.open("a") as file:
            file.write(json.dumps(event) + "\n")
    assert interrupted(daemon, {99: Run(99, status)}) == []


def test_a_run_that_somebody_is_just_starting_is_left_alone(daemon, started):
    started.note_launch(Launch(3, 0))
    assert interrupted(daemon, {}) == []


def test_what_is_supervised_comes_from_the_coordinators_folder_alone(coordinator, monkeypatch):
    seen = []
    monkeypatch.setattr(module, "supervise", lambda found, *_: seen.extend(found))
    monkeypatch.setattr(module, "keep_registered", lambda *_: None)
    monkeypatch.setattr(module, "keep_resumed", lambda *_: None)
    run(coordinator, "127.0.0.1", threading.Event(), print)
    assert [service.name for service in seen] == ["superlink", "executor"]
    given = " ".join(seen[0].command)
    assert f"--port {parse_address(coordinator.config.address).port} " in given
    assert f"--loopback-port {parse_address(coordinator.config.control).port} " in given
    assert given.endswith(f"--certificate {coordinator.server_file} --key {coordinator.server_key_file}")


def test_the_operators_secret_goes_to_no_proxy(daemon, monkeypatch):
    daemon.prepare()
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.5)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(NotRunning), replace(daemon, control_port=free_port()).control() as link:
            link.runs()
        with pytest.raises(TimeoutError):
            proxy.accept()
