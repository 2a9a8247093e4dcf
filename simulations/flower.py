"""Start Flower's simulation runtime, run one study in it, and leave nothing running.

Our own SuperLink from a neutral working directory: Flower's default connection would leave a
detached one behind, and Ray puts the SuperLink's working directory before the bundle. The bundle
holds a pyproject.toml with references and settings, README and LICENSE, and no code.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from client.app import SITES_VARIABLE
from common.errors import RunError
from common.study import Study
from server.app import RUN_VARIABLE
from server.run_folder import RunFolder

READY_SECONDS = 60.0
SETTLE_SECONDS = 10.0

BUNDLE = """\
[project]
name = "fedct-study"
version = "1.0.0"
description = "A fedct study: settings only, no code"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "fedct"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["/README.md", "/LICENSE"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
study = "{digest}"
seed = {seed}
simulated = true
"""


def environment(home: Path, sites: Path, run: Path) -> dict[str, str]:
    """The environment of every process that we start: nothing phones home, nothing is installed."""
    return {
        **os.environ,
        "FLWR_HOME": str(home / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONUNBUFFERED": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        SITES_VARIABLE: str(sites),
        RUN_VARIABLE: str(run),
    }


def write_bundle(folder: Path, study: Study, seed: int) -> Path:
    """The folder that ``flwr run`` packs."""
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(BUNDLE.format(digest=study.digest, seed=seed))
    (folder / "README.md").write_text(f"Study {study.name}, digest {study.digest}.\n")
    (folder / "LICENSE").write_text("Apache-2.0\n")
    return folder


@dataclass
class Runtime:
    """A running SuperLink: ``process``, its log, and the short-path home that Ray uses."""

    process: subprocess.Popen[bytes]
    home: Path
    port: int
    env: dict[str, str]
    log: Path


@contextlib.contextmanager
def superlink(sites: Path, run: RunFolder) -> Iterator[Runtime]:
    """A SuperLink in simulation mode on loopback; it and all it started are gone on exit."""
    home = Path(tempfile.mkdtemp(prefix="fedct-", dir=tempfile.gettempdir()))
    port = _free_port()
    env = environment(home, sites.resolve(), run.root.resolve())
    neutral = home / "cwd"
    neutral.mkdir()
    (home / "flwr").mkdir()
    (home / "flwr" / "config.toml").write_text(
        f'[superlink.simulation]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    command = [
        "flower-superlink",
        "--insecure",
        "--simulation",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-runtime-dependency-installation",
    ]
    log = run.inner / "superlink.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=neutral, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_ready(process, port, log)
        yield Runtime(process, home, port, env, log)
    finally:
        stop_all(home)
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def launch(runtime: Runtime, study: Study, seed: int, nodes: int, workers: int) -> None:
    """Submit the study to the SuperLink. Raises RunError with Flower's last line when it is refused."""
    bundle = write_bundle(runtime.home / "bundle", study, seed)
    federation = (
        f"num-supernodes={nodes} client-resources-num-cpus=1 client-resources-num-gpus=0.0 init-args-num-cpus={workers}"
    )
    done = subprocess.run(
        ["flwr", "run", str(bundle), "simulation", "--federation-config", federation, "--format", "json"],
        cwd=runtime.home / "cwd",
        env=runtime.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0 or '"success": true' not in done.stdout:
        text = (done.stdout + done.stderr).strip() or "no output"
        raise RunError(f"Flower did not accept the run: {text[-500:]}", f"See '{runtime.log}'")


def stop_all(home: Path) -> None:
    """End every process of this run: asked first, then killed, each by its id."""
    family = processes_of(home)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(family, timeout=SETTLE_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=SETTLE_SECONDS)


def processes_of(home: Path) -> list[psutil.Process]:
    """Processes whose working directory or ``FLWR_HOME`` lies under ``home``.

    Ray detaches its servers from their parents, and its agents overwrite their environment; neither
    the process tree nor one mark alone finds them all.
    """
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _belongs(process, home)]


def _belongs(process: psutil.Process, home: Path) -> bool:
    mark = f"{home}{os.sep}"
    with contextlib.suppress(psutil.Error, OSError):
        return process.cwd().startswith(mark) or process.environ().get("FLWR_HOME", "").startswith(mark)
    return False


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RunError(f"Flower's SuperLink ended with code {process.returncode}", f"See '{log}'")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RunError(f"Flower's SuperLink did not answer within {READY_SECONDS:.0f} s", f"See '{log}'")
