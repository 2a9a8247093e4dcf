"""A site's two halves, confined as the systemd units confine them, do a round; neither can do the other's part."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from client.doctor import diagnose
from client.ingest.build import ingest
from client.join import join
from client.ledger import Ledger
from client.node import BOTH
from client.site import Site, load_site, load_sites
from client.systemd import NODE_UNIT, TRAINER_UNIT, preparation, units
from common.flower_env import free_port
from common.pki.address import Address
from common.pki.invitation import make_invitation
from common.pki.signature import sign_study
from common.toml import to_toml
from server.ca import create
from server.control import NotRunning
from server.coordinator import open_coordinator
from server.daemon import daemon_of
from server.launch import launch
from server.registry import Registry
from server.results import read_results

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes network namespaces and changes users"),
]


def load_sandbox():
    spec = importlib.util.spec_from_file_location("sandbox", Path(__file__).with_name("sandbox.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sandbox = load_sandbox()
CLI = "import sys; sys.argv[0] = 'fedct'; from {module} import main; main()"
READ = "import sys; print(len(open(sys.argv[1], 'rb').read()))"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); print('connected')"


@dataclass
class Place:
    """A coordinator, a site that joined it, and a network of loopback alone for the trainer."""

    folder: Path
    coordinator: object
    site: Site
    network: object
    kept: Path
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def confined(self, part: str, *command: str, hide: bool = True) -> list[str]:
        """How a command runs as this half does."""
        unit = units(self.site)[NODE_UNIT if part == "node" else TRAINER_UNIT]
        words = [
            w for line in unit.splitlines() if line.startswith("InaccessiblePaths=") for w in line.split("=")[1].split()
        ]
        hidden = [Path(word.lstrip("-")) for word in words] if hide else []
        kept = self.kept / f"{part}-{secrets.token_hex(4)}"
        kept.mkdir()
        user, network = (sandbox.NODE, None) if part == "node" else (sandbox.TRAINER, self.network.name)
        return sandbox.confined([sys.executable, "-P", *command], user, self.site.folder, hidden, kept, network)

    def tries(self, part: str, code: str, *arguments: object, hide: bool = True) -> str:
        """What comes of a piece of Python in this half: its output, or the last line of its error."""
        call = self.confined(part, "-c", code, *map(str, arguments), hide=hide)
        done = subprocess.run(call, cwd="/", capture_output=True, text=True, timeout=120)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    def start(self, name: str, command: list[str]) -> None:
        # systemd names the user; this one is on no list, so what asks who it is must be told
        who = {"USER": name, "LOGNAME": name, "HOME": "/nonexistent"} if name != "coordinator" else {}
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command, cwd="/", stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1", **who}
            )

    def until(self, condition, seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.said()
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended\n{self.said()}"
            time.sleep(0.5)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(60)
        _, alive = psutil.wait_procs(family, timeout=20)
        for left in alive:
            left.kill()
        assert alive == []

    def logs(self) -> list[Path]:
        """All that the daemon writes for people, but for the audit log."""
        homes = (self.site.node_dir, self.site.runner_dir)
        files = [path for home in homes for path in home.glob("*") if ".log" in path.name or path.suffix == ".out"]
        return [*files, *self.folder.glob("*.out")]

    def said(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in self.logs())


@pytest.fixture
def place(tmp_path, make_sites, small_study):
    port = free_port()
    made = create(tmp_path / "coordinator", "C", Address("127.0.0.1", port), "correct horse battery", datetime.now(UTC))
    config = made.config.model_copy(update={"control": f"127.0.0.1:{free_port()}"})
    (made.folder / "coordinator.toml").write_text(to_toml(config.model_dump(mode="json")))
    coordinator = open_coordinator(made.folder)
    (site,) = load_sites(make_sites(1, simulated=False))
    site = joined(coordinator, site)
    study = small_study(federation={"rounds": 1, "minimum_sites": 1, "deadline_minutes": 10.0})
    ingest(site, study)
    site.approve(study, sign_study(study, coordinator.study_key()))
    meeting = free_port()
    with (site.folder / "site.toml").open("a") as file:
        file.write(f"\n[service]\nport = {meeting}\n")
    site = load_site(site.folder)
    network = sandbox.Network(f"fedct-{os.getpid()}", meeting)
    kept = tempfile.TemporaryDirectory(prefix="apart-")  # tmp_path is covered where the halves are
    place = Place(tmp_path, coordinator, site, network, Path(kept.name))
    place.study = study
    try:
        for command in preparation(site, node=sandbox.NODE, trainer=sandbox.TRAINER, group=sandbox.GROUP):
            subprocess.run(command, check=True)
        yield place
    finally:
        for name in list(place.processes):
            place.stop(name)
        network.close()
        kept.cleanup()


def joined(coordinator, site: Site) -> Site:
    registry, now = Registry(coordinator.registry_file), datetime.now(UTC)
    invitation = make_invitation(
        coordinator="C",
        address=coordinator.config.address,
        authority=coordinator.authority_file.read_text(),
        study_key=coordinator.study_key(),
        site=site.name,
        title=site.name,
        now=now,
        random=secrets.token_bytes,
    )
    registry.invite(invitation, now)
    site, request = join(invitation, site.folder)
    registry.admit(request.encode(), now)
    return site


def online(place: Place) -> bool:
    try:
        with daemon_of(place.coordinator).control() as link:
            return [node.status for node in link.nodes()] == ["online"]
    except NotRunning:
        return False


def test_both_halves_do_a_round_confined_and_neither_can_do_the_others_part(place):
    site, port = place.site, int(place.coordinator.config.address.split(":")[1])
    serve = ("-c", CLI.format(module="client.cli"), "serve", "--site", str(site.folder), "--part")
    start = [sys.executable, "-P", "-c", CLI.format(module="server.cli"), "start"]
    place.start("coordinator", [*start, "--dir", str(place.coordinator.folder), "--bind", "127.0.0.1"])
    place.start("node", place.confined("node", *serve, "node", "--metrics-port", "0"))
    place.until((site.node_dir / "runner.secret").exists)
    place.start("trainer", place.confined("trainer", *serve, "runner"))
    place.until(lambda: online(place) and '"runner-ready"' in said(site.runner_dir / "runner.log"))

    the_node_reaches_no_patient(place)
    the_trainer_reaches_nobody_outside(place, port)
    the_processes_are_the_users_own(place)

    found = diagnose(site, BOTH, place.study)
    assert [check for check in found.checks if check.state == "fail"] == []
    launched = launch(daemon_of(place.coordinator), place.study, place.folder, seed=0, now=datetime.now(UTC))
    place.until(launched.folder.results_file.exists)
    results = read_results(launched.folder.results_file)
    assert results.outcome == "finished", f"{results}\n{site.audit_file.read_text()}\n{place.said()}"
    assert [p.status for p in results.rounds[0].participation] == ["ok"]
    assert Ledger(site.ledger_file).rounds_charged("default", place.study.digest)[0] == 1
    the_logs_say_what_was_done_and_name_no_patient(place)

    place.stop("coordinator")
    place.until(lambda: "contact" in failing(diagnose(site, ["node"], place.study)))
    assert {"connection", "contact"} <= failing(diagnose(site, ["node"], place.study))


def said(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def failing(found) -> set[str]:
    return {check.name for check in found.checks if check.state == "fail"}


def the_node_reaches_no_patient(place: Place) -> None:
    dicom = next(path for path in place.site.dicom_dir.rglob("*") if path.is_file())
    cohort = next(place.site.cohorts_dir.rglob("planes.npy"))
    secrets_ = (
        dicom,
        cohort,
        place.site.labels_file,
        place.site.key_file,
        place.site.ledger_file,
        place.site.audit_file,
    )
    for path in secrets_:
        for hide in (True, False):  # modes alone, and the sandbox on top of them
            assert "Error" in place.tries("node", READ, path, hide=hide), (path, hide)
    for path in (dicom, cohort):  # the same code, where it may
        assert int(place.tries("trainer", READ, path)) == path.stat().st_size
    assert int(place.tries("node", READ, place.site.folder / "site.toml")) > 0
    assert "PermissionError" in place.tries("trainer", READ, place.site.node_dir / "node.key")


def the_trainer_reaches_nobody_outside(place: Place, port: int) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        ours = next(
            a.address
            for nic in psutil.net_if_addrs().values()
            for a in nic
            if a.family == socket.AF_INET and not a.address.startswith("127.")
        )
        outside = [("127.0.0.1", port), (ours, server.getsockname()[1])]
        for address in outside:
            assert "Error" in place.tries("trainer", CONNECT, *address), address
            assert place.tries("node", CONNECT, *address) == "connected", address
    assert place.tries("trainer", CONNECT, "127.0.0.1", place.site.config.service.port) == "connected"


def the_processes_are_the_users_own(place: Place) -> None:
    ours = os.stat("/proc/self/ns/net").st_ino
    for name, user in (("node", sandbox.NODE), ("trainer", sandbox.TRAINER)):
        daemon = psutil.Process(place.processes[name].pid)
        family = [daemon, *daemon.children(recursive=True)]
        assert len(family) > 1
        for process in family:
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert {str(uid) for uid in process.uids()} == {user}
            assert "NoNewPrivs:\t1" in status
            assert "CapBnd:\t0000000000000000" in status
            assert (os.stat(f"/proc/{process.pid}/ns/net").st_ino == ours) is (name == "node")


def the_logs_say_what_was_done_and_name_no_patient(place: Place) -> None:
    lines = [json.loads(line) for line in (place.site.runner_dir / "runner.log").read_text().splitlines()]
    trained = [line for line in lines if line.get("kind") == "train"]
    assert [(line["study"], line["round"], line["status"]) for line in trained] == [(place.study.digest, 1, "ok")]
    patients = [path.name for path in place.site.dicom_dir.iterdir()]
    assert len(patients) > 2
    for path in place.logs():
        content = path.read_text(errors="replace")
        assert not [patient for patient in patients if patient in content], path
        assert str(place.site.dicom_dir) not in content, path
