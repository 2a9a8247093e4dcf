"""A deployed consortium on this machine: the daemons of a coordinator and its sites, over TLS on loopback.

Everything is what hospitals run: ``fedct-coordinator start`` and ``fedct-site serve``, with keys, admission, SuperLink,
SuperNodes and runners; only the invitations are carried by this process.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

from client.ingest.build import ingest
from client.join import join
from client.site import DataSettings, Site, SiteConfig, create_site
from common import toml
from common.errors import RunError
from common.flower_env import LOOPBACK, free_port
from common.pki.address import Address
from common.pki.invitation import make_invitation
from common.pki.signature import sign_study
from common.study import Study
from server.ca import create
from server.coordinator import Coordinator, open_coordinator
from server.daemon import daemon_of
from server.launch import Launched, launch
from server.registry import Registry

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 900.0
STOP_SECONDS = 30.0
_RUN = "import sys; sys.argv[0] = 'fedct'; from {module} import main; main()"


@dataclass(frozen=True)
class Deployed:
    """A coordinator that serves and sites that are connected. ``processes``: their daemons, the coordinator's first."""

    coordinator: Coordinator
    sites: list[Site]
    processes: list[psutil.Process]

    def launch(self, study: Study) -> Launched:
        """Start ``study``, which the sites have approved."""
        return launch(daemon_of(self.coordinator), study, self.coordinator.folder, seed=0, now=datetime.now(UTC))

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for ``condition``. Raises RunError when it does not come, or a daemon has ended."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise RunError(
                    "the consortium did not get there", f"See the logs in '{self.coordinator.folder.parent}'"
                )
            for process in self.processes:
                if process.status() == psutil.STATUS_ZOMBIE:
                    raise RunError("a daemon ended by itself", f"See the logs in '{self.coordinator.folder.parent}'")
            time.sleep(POLL_SECONDS)


@contextmanager
def deployed(folder: Path, study: Study, sources: list[Site]) -> Iterator[Deployed]:
    """Enrol a site a source (whose images and labels it takes), ingest and approve ``study``, and start all daemons.

    ``folder`` must be empty; on the way out every process has ended, and the folder is left.
    """
    coordinator = _coordinator(folder / "coordinator")
    sites = [_joined(coordinator, folder, source) for source in sources]
    for site in sites:
        ingest(site, study)
        site.approve(study, sign_study(study, coordinator.study_key()))
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start(folder, "server.cli", "start", "--dir", coordinator.folder, "--bind", LOOPBACK))
        started += [_start(folder, "client.cli", "serve", "--site", site.folder) for site in sites]
        made = Deployed(coordinator, sites, [psutil.Process(process.pid) for process in started])
        made.until(lambda: _online(coordinator) == len(sites))
        yield made
    finally:
        _stop(started)


def _coordinator(folder: Path) -> Coordinator:
    made = create(folder, "C", Address(LOOPBACK, free_port()), secrets.token_hex(16), datetime.now(UTC))
    config = made.config.model_copy(update={"control": f"{LOOPBACK}:{free_port()}"})
    (made.folder / "coordinator.toml").write_text(toml.to_toml(config.model_dump(mode="json")))
    return open_coordinator(made.folder)


def _joined(coordinator: Coordinator, folder: Path, source: Site) -> Site:
    now, name = datetime.now(UTC), source.name
    data = DataSettings(dicom=str(source.dicom_dir), labels=str(source.labels_file))
    create_site(folder / name, SiteConfig(name=name, data=data, policy=source.config.policy))
    invitation = make_invitation(
        coordinator="C",
        address=coordinator.config.address,
        authority=coordinator.authority_file.read_text(),
        study_key=coordinator.study_key(),
        site=name,
        title=name,
        now=now,
        random=secrets.token_bytes,
    )
    registry = Registry(coordinator.registry_file)
    registry.invite(invitation, now)
    site, request = join(invitation, folder / name)
    registry.admit(request.encode(), now)
    return site


def _online(coordinator: Coordinator) -> int:
    try:
        with daemon_of(coordinator).control() as link:
            return sum(node.status == "online" for node in link.nodes())
    except RunError:
        return 0


def _start(folder: Path, module: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Start a command; its output goes to ``folder``."""
    log = folder / f"{Path(str(arguments[2])).name}.out"
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _RUN.format(module=module), *map(str, arguments)],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # all sites share the machine
            cwd=folder,
        )


def _stop(started: list[subprocess.Popen[bytes]]) -> None:
    """End the daemons, which end what they started."""
    family = [child for process in started for child in _descendants(process)]
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for left in psutil.wait_procs(family, timeout=STOP_SECONDS)[1]:
        left.kill()


def _descendants(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
