"""The coordinator guide's own way from nothing to a report, typed line by line, with real processes over TLS."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from client.audit_log import AuditLog
from client.ledger import Ledger
from client.site import load_site
from common.flower_env import free_port
from common.study import load_study
from server.results import read_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "coordinator-guide.md").read_text(encoding="utf-8")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
HOSPITALS = {"st-anna": "St. Anna", "north-clinic": "North Clinic", "south-clinic": "South Clinic"}
ADDRESS = "fedct.example.org:8443"
FOR_EVER = {"start", "serve"}


def shown(heading: str, language: str) -> str:
    """The first block in this language after a heading of the guide."""
    after = GUIDE.split(f"\n## {heading}\n")[1]
    return re.findall(rf"^```{language}\n(.*?)^```", after, flags=re.MULTILINE | re.DOTALL)[0]


def two_free_ports() -> int:
    """A port of loopback that is free, and so is the next one, which ``init`` takes for the operator."""
    while True:
        port = free_port()
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
        except OSError:
            continue
        return port


class Desk:
    """A terminal in a folder; daemons stay on it until it is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "FEDCT_PASSPHRASE": "correct horse battery", "OMP_NUM_THREADS": "1"}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def call(self, words: list[str]) -> list[str]:
        """How a command of this tree is started, whether it is installed or not."""
        module, function = SCRIPTS[words[0]].split(":")
        code = f"import sys; sys.argv[0] = {words[0]!r}; from {module} import {function} as f; f()"
        return [sys.executable, "-c", code, *words[1:]]

    def type(self, *words: str) -> str:
        done = subprocess.run(
            self.call([*words]), cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}{self.said()}"
        return done.stdout

    def begin(self, name: str, *words: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as output:
            self.daemons[name] = subprocess.Popen(
                self.call([*words]),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                # A shell starts what runs in its background deaf to Ctrl-C, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - one thread
            )

    def status(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads(
            self.type("fedct-coordinator", "status", "--dir", "coordinator", "--json")
        )
        return found

    def until(self, condition, seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said()
            for name, process in self.daemons.items():
                assert process.poll() is None, f"{name} ended{self.said()}"
            time.sleep(0.5)

    def leave(self) -> list[psutil.Process]:
        """Ctrl-C for all daemons; what is left of them and their children, which is then killed."""
        living = [process for process in self.daemons.values() if process.poll() is None]
        family = [child for p in living for child in psutil.Process(p.pid).children(recursive=True)]
        for process in living:
            process.send_signal(signal.SIGINT)
        _, alive = psutil.wait_procs([*family, *(psutil.Process(p.pid) for p in living if p.poll() is None)], 40)
        for process in alive:
            process.kill()
        for process in living:
            process.wait()
        return alive

    def said(self) -> str:
        files = [*self.folder.glob("*.out"), *self.folder.rglob("*.log")]
        return "\n".join(f"\n== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in files)


@pytest.fixture
def desk(tmp_path):
    """A desk with the guide's study, and with three hospitals' CT; nothing that was begun here outlives it."""
    (tmp_path / "study.toml").write_text(shown("A first study", "toml"))
    desk = Desk(tmp_path)
    desk.type("fedct-sim", "phantom", "--patients", "18", "--sites", "3", "--seed", "1", "--out", "phantom")
    try:
        yield desk
    finally:
        alive = desk.leave()
    assert alive == []
    assert {name: process.returncode for name, process in desk.daemons.items()} == dict.fromkeys(desk.daemons, 0)


def for_hospital(line: str, number: int, port: int) -> list[str]:
    """The words of a line of the guide, with this hospital's name and data, and this test's port."""
    name, title = [*HOSPITALS.items()][number]
    data = f"phantom/hospital-{number + 1}"
    line = line.replace("st-anna", name).replace("St. Anna", title).replace(ADDRESS, f"127.0.0.1:{port}")
    return shlex.split(line.replace("/data/ct", f"{data}/dicom").replace("/data/", f"{data}/"))


def test_the_guide_leads_from_nothing_to_a_report_of_three_hospitals_and_a_revoked_one_is_refused(desk):
    port = two_free_ports()
    for line in shown("A study at real hospitals", "sh").splitlines():
        for number in range(len(HOSPITALS) if "st-anna" in line else 1):
            words = for_hospital(line, number, port)
            if words[1] not in FOR_EVER:
                desk.type(*words)
            elif words[1] == "start":
                desk.begin("coordinator", *words, "--bind", "127.0.0.1")
                desk.until(lambda: desk.status()["serving"])
            else:
                desk.begin(words[-1], *words)
        if " serve " in line:
            desk.until(lambda: desk.status()["nodes"] == dict.fromkeys(HOSPITALS, "online"))
    (run,) = (desk.folder / "coordinator" / "runs").iterdir()
    desk.until(lambda: '"state": "running"' not in desk.type(*RUNS), 240)
    (standing,) = json.loads(desk.type(*RUNS))
    assert (standing["state"], standing["reason"]) == ("finished", ""), desk.said()
    assert (run / "report.html").stat().st_size > 10_000
    the_results_are_those_of_a_private_study(desk, run)
    desk.type("fedct-coordinator", "revoke", "south-clinic", "--dir", "coordinator")
    assert set(desk.status()["nodes"]) == {"st-anna", "north-clinic"}
    desk.until(lambda: "the coordinator does not accept it" in (desk.folder / "south-clinic.out").read_text())
    assert desk.status()["nodes"] == {"st-anna": "online", "north-clinic": "online"}
    assert "the coordinator does not accept it" not in (desk.folder / "st-anna.out").read_text()


RUNS = ("fedct-coordinator", "runs", "--dir", "coordinator", "--json")


def the_results_are_those_of_a_private_study(desk: Desk, run: Path) -> None:
    """All three took part in every round, within the strictest policy, and ledgers and logs agree."""
    study, results = load_study(desk.folder / "study.toml"), read_results(run / "results.json")
    assert study.privacy.on
    assert (results.outcome, results.simulated, results.study_digest) == ("finished", False, study.digest)
    assert [r.round for r in results.rounds] == [1, 2]
    assert all({p.site: p.status for p in r.participation} == dict.fromkeys(HOSPITALS, "ok") for r in results.rounds)
    assert {summary.site for summary in results.sites} == set(HOSPITALS)
    for summary in results.sites:
        site = load_site(desk.folder / summary.site)
        ledger = Ledger(site.ledger_file)
        assert not site.config.simulated
        assert ledger.rounds_charged("default", study.digest) == (1, 2, 2)  # and the final evaluation, noised
        assert summary.epsilon == pytest.approx(ledger.spent("default", study.privacy.delta))
        assert 0 < summary.epsilon <= site.config.policy.max_epsilon
        AuditLog(site.audit_file).verify()
