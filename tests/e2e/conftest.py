"""Whole commands as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from common.study import Study
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
