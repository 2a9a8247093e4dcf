"""Whole commands as a person runs them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from client.ingest.build import ingest
from client.join import join
from client.ledger import Ledger
from client.site import Site, load_site, load_sites
from common import toml
from common.errors import RunError
from common.flower_env import free_port
from common.pki.address import Address, parse_address
from common.pki.invitation import make_invitation
from common.pki.signature import sign_study
from common.study import Study
from server.ca import create
from server.coordinator import Coordinator, open_coordinator
from server.daemon import Daemon, daemon_of
from server.launch import Launched, launch
from server.nodes import register_nodes
from server.registry import Registry
from server.results import read_results
from simulations.flower import processes_of

COMMAND = Path(sys.executable).parent / "fedct-sim"


def _to_toml(study: Study) -> str:
    """The study as a file: tables of scalars and arrays, which JSON spells as TOML does."""
    content = study.model_dump(mode="json", exclude_none=True)
    lines = [f"{k} = {json.dumps(v)}" for k, v in content.items() if not isinstance(v, dict)]
    for section, values in content.items():
        if isinstance(values, dict):
            lines.append(f"[{section}]")
            for key, value in values.items():
                if key == "windows":
                    tables = ", ".join(f"{{ low = {w['low']}, high = {w['high']} }}" for w in value)
                    lines.append(f"windows = [{tables}]")
                else:
                    lines.append(f"{key} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def home(tmp_path_factory):
    """A short temporary folder for what a run starts, so that leftovers are seen. Ray's sockets need it short."""
    with tempfile.TemporaryDirectory(prefix="e2e-") as folder:
        yield Path(folder)


@pytest.fixture
def start(home):
    """Start fedct-sim; every process that it leaves is ended, and ``left`` tells of them."""
    started: list[subprocess.Popen] = []

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.Popen:
        process = subprocess.Popen(
            [str(COMMAND), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=cwd or home,
            env={**os.environ, "TMPDIR": str(home)},
            # A shell starts what runs in its background deaf to Ctrl-C, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - no threads
        )
        started.append(process)
        return process

    yield run
    for process in [*processes_of(home), *started]:
        if isinstance(process, psutil.Process) or process.poll() is None:
            process.kill()
    for process in started:
        process.stdout.close()
        process.wait()


@pytest.fixture
def left(home):
    """Names of what runs or lies under the temporary folder; torch's own cache apart."""

    def look() -> list[str]:
        files = [path.name for path in home.iterdir() if not path.name.startswith("torchinductor")]
        return [*files, *(str(process) for process in processes_of(home))]

    return look


@pytest.fixture(scope="session")
def to_toml():
    return _to_toml


RUN = "import sys; sys.argv[0] = 'fedct'; from {module} import main; main()"


@dataclass
class Consortium:
    """A coordinator that serves, and its sites."""

    folder: Path
    coordinator: Coordinator
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def daemon(self) -> Daemon:
        return daemon_of(self.coordinator)

    def start(self, name: str, module: str, *arguments: object, first: str = "", **variables: str) -> None:
        """Start a command. ``first``: Python that runs before it. ``variables``: of its environment."""
        code = first + RUN.format(module=module)
        log = (self.folder / f"{name}.out").open("ab")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        with log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-c", code, *map(str, arguments)],
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                # A shell starts what runs in its background deaf to Ctrl-C, and children inherit that.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
            )

    def start_coordinator(self) -> None:
        self.start("coordinator", "server.cli", "start", "--dir", self.daemon.folder, "--bind", "127.0.0.1")
        self.until(self.answers)

    def start_site(self, site: Site, **how: str) -> None:
        self.start(site.name, "client.cli", "serve", "--site", site.folder, **how)

    def said(self, site: Site) -> str:
        """What the site's daemon printed so far."""
        return (self.folder / f"{site.name}.out").read_text()

    def answers(self) -> bool:
        try:
            with self.daemon.control() as link:
                link.runs()
        except RunError:
            return False
        return True

    def online(self) -> int:
        with self.daemon.control() as link:
            return sum(node.status == "online" for node in link.nodes())

    def launch(self, study) -> Launched:
        return launch(self.daemon, study, self.folder, seed=0, now=datetime.now(UTC))

    def until(self, condition, seconds: float = 600) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs()
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended\n{self.logs()}"
            time.sleep(0.2)

    def finish(self, launched: Launched, seconds: float = 120):
        """The results, once the run says that it has ended."""
        self.until(lambda: launched.folder.events()[0][-1:] and self.last(launched)["event"] == "end", seconds)
        return read_results(launched.folder.results_file)

    def last(self, launched: Launched) -> dict[str, Any]:
        return launched.folder.events()[0][-1]

    def happened(self, launched: Launched, **event: Any) -> bool:
        """Whether there is an event with these details."""
        return any(event.items() <= found.items() for found in launched.folder.events()[0])

    def server_app(self) -> psutil.Process:
        """The process that runs the study."""
        (found,) = [
            process
            for process in psutil.Process(self.processes["coordinator"].pid).children(recursive=True)
            if "flwr-serverapp" in " ".join(process.cmdline())
        ]
        return found

    def kill(self, name: str) -> None:
        """What a power cut leaves of a machine."""
        process = self.processes.pop(name)
        family = [*children_of(process.pid), psutil.Process(process.pid)]
        for one in reversed(family):
            one.kill()
        process.wait()
        psutil.wait_procs(family, timeout=10)

    def child(self, name: str, part: str) -> psutil.Process:
        """The process of a daemon whose command line holds ``part``."""
        daemon = psutil.Process(self.processes[name].pid)
        (found,) = [child for child in daemon.children() if part in " ".join(child.cmdline())]
        return found

    def command(self, name: str, *arguments: object) -> str:
        """What a subcommand of fedct-coordinator prints; it must succeed."""
        return self._typed("server.cli", name, *arguments, "--dir", self.daemon.folder)

    def site_command(self, site: Path, *arguments: object) -> str:
        """What a subcommand of fedct-site prints at a site's folder; it must succeed."""
        return self._typed("client.cli", *arguments, "--site", site)

    def _typed(self, module: str, *arguments: object) -> str:
        call = [sys.executable, "-P", "-c", RUN.format(module=module), *map(str, arguments)]
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + self.logs()
        return done.stdout

    def charged(self, site: Site, study: Study) -> tuple[int, ...]:
        """The rounds that the site's ledger was charged for: a round is, just before its work begins."""
        return Ledger(site.ledger_file).rounds_charged("default", study.digest)

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def logs(self) -> str:
        files = [*self.folder.glob("*.out"), *self.folder.rglob("*.log")]
        return "\n".join(f"== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in files)


@pytest.fixture
def consortium(tmp_path):
    """A coordinator that serves; every process of it is gone afterwards."""
    made = create(
        tmp_path / "coordinator", "C", Address("127.0.0.1", free_port()), "correct horse battery", datetime.now(UTC)
    )
    config = made.config.model_copy(update={"control": f"127.0.0.1:{free_port()}"})
    (made.folder / "coordinator.toml").write_text(toml.to_toml(config.model_dump(mode="json")))
    started = Consortium(tmp_path, open_coordinator(made.folder))
    try:
        started.start_coordinator()
        yield started
    finally:
        family = [child for p in started.processes.values() if p.poll() is None for child in children_of(p.pid)]
        started.stop()
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
    assert alive == []


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


@pytest.fixture
def join_site(consortium):
    """Have a site folder join, and admit its node."""
    key = consortium.coordinator.study_key()
    registry = Registry(consortium.coordinator.registry_file)

    def joined(folder: Path) -> Site:
        now = datetime.now(UTC)
        invitation = make_invitation(
            coordinator="C",
            address=consortium.coordinator.config.address,
            authority=consortium.coordinator.authority_file.read_text(),
            study_key=key,
            site=folder.name,
            title=folder.name,
            now=now,
            random=secrets.token_bytes,
        )
        registry.invite(invitation, now)
        site, request = join(invitation, folder)
        registry.admit(request.encode(), now)
        return site

    return joined


@pytest.fixture
def sites(consortium, make_sites, join_site):
    """Make joined sites: cohorts ingested, nodes admitted, the study approved under the coordinator's signature."""
    key = consortium.coordinator.study_key()
    registry = Registry(consortium.coordinator.registry_file)

    def make(count: int, study, **policy) -> list[Site]:
        found = [join_site(site.folder) for site in load_sites(make_sites(count, simulated=False, **policy))]
        for site in found:
            ingest(site, study)
            site.approve(study, sign_study(study, key))
        register_nodes(consortium.daemon, registry)
        return found

    return make


class Proxy:
    """A way of TCP between a site and the coordinator that can be cut: nothing passes, and nobody is told.

    ``slow``: bytes a second on each connection, each way; 0: as many as there are.
    """

    def __init__(self, goal: int) -> None:
        self.slow = 0
        self._goal, self._open = goal, threading.Event()
        self._open.set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._server.close()
        self._open.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                self._open.wait()
                far = socket.create_connection(("127.0.0.1", self._goal))
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._relay, args=(one, other), daemon=True).start()

    def _relay(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self._open.wait()
                for start in range(0, len(data), 1 << 12):
                    time.sleep((1 << 12) / self.slow if self.slow else 0)
                    other.sendall(data[start : start + (1 << 12)])
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def proxy_for(consortium):
    """Put a proxy between a joined site and the coordinator; the site, and the proxy."""
    made = []

    def make(site: Site) -> tuple[Site, Proxy]:
        port = parse_address(consortium.coordinator.config.address).port
        made.append(Proxy(port))
        settings = site.folder / "site.toml"
        settings.write_text(settings.read_text().replace(f"127.0.0.1:{port}", f"127.0.0.1:{made[-1].port}"))
        return load_site(site.folder), made[-1]

    yield make
    for one in made:
        one.close()
