"""Start Flower's simulation runtime, run one study in it, and leave nothing running.

Our own SuperLink from a neutral working directory: Flower's default connection would leave a
detached one behind, and Ray puts the SuperLink's working directory before the bundle.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from client.app import SITES_VARIABLE
from common.errors import RunError
from common.flower_env import TRAINING, flower_environment, free_port
from common.study import Study
from server.bundle import bundle_files, write_files
from server.run_folder import RUN_VARIABLE, RunFolder

READY_SECONDS = 60.0
SETTLE_SECONDS = 10.0


def environment(home: Path, sites: Path, run: Path) -> dict[str, str]:
    """The environment of every process that we start: Flower's, and Ray's."""
    ours = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(home),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        SITES_VARIABLE: str(sites),
        RUN_VARIABLE: str(run),
    }
    return TRAINING | flower_environment(home) | ours


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
    port = free_port()
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
    bundle = write_files(runtime.home / "bundle", bundle_files(study, seed, simulated=True))
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


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RunError(f"Flower's SuperLink ended with code {process.returncode}", f"See '{log}'")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise RunError(f"Flower's SuperLink did not answer within {READY_SECONDS:.0f} s", f"See '{log}'")
