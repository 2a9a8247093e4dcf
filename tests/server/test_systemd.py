from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common import toml
from common.errors import CoordinatorError
from common.pki.address import Address
from server.ca import create
from server.cli import main
from server.coordinator import Coordinator, open_coordinator
from server.systemd import UNIT, USER, unit

WORST_EXPOSURE = 20  # of 100; systemd calls up to 20 "OK"
verifies = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def make(tmp_path):
    def coordinator(name: str = "coordinator", port: int = 8443) -> Coordinator:
        made = create(tmp_path / name, "C", Address("ct.example", port), "correct horse battery", datetime.now(UTC))
        config = made.config.model_copy(update={"control": "127.0.0.1:8444"})
        (made.folder / "coordinator.toml").write_text(toml.to_toml(config.model_dump(mode="json")))
        return open_coordinator(made.folder)

    return coordinator


@pytest.fixture
def program(tmp_path):
    """A fedct-coordinator that is there and can be run."""
    path = tmp_path / "bin" / "fedct-coordinator"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def values(text: str, key: str) -> list[str]:
    return [line.split("=", 1)[1] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_it_is_a_user_of_its_own_that_writes_the_folder_alone_and_never_sees_the_authoritys_key(make):
    coordinator = make()
    text = unit(coordinator, "0.0.0.0")
    assert values(text, "User") == values(text, "Group") == [USER]
    assert values(text, "ReadWritePaths") == [str(coordinator.folder)]
    assert values(text, "InaccessiblePaths") == [f"-{coordinator.folder / 'ca.key'}"]
    assert values(text, "MemoryDenyWriteExecute") == ["yes"]


def test_it_listens_for_sites_and_operators_and_nowhere_else(make):
    text = unit(make(), "10.0.0.5")
    assert values(text, "SocketBindAllow") == ["tcp:8443", "tcp:8444"]
    assert values(text, "SocketBindDeny") == ["any"]
    assert values(text, "ExecStart")[0].endswith("--bind 10.0.0.5")


@pytest.mark.parametrize(("port", "capability"), [(8443, ""), (443, "CAP_NET_BIND_SERVICE")])
def test_it_has_a_capability_only_where_its_port_needs_one(make, port, capability):
    text = unit(make(port=port), "0.0.0.0")
    assert values(text, "CapabilityBoundingSet") == values(text, "AmbientCapabilities") == [capability]


@verifies
@pytest.mark.parametrize("name", ["coordinator", "a folder's name", "100% 'sure\" $HOME;"])
def test_systemds_own_verifier_has_nothing_to_say(make, program, tmp_path, name):
    path = tmp_path / UNIT
    path.write_text(unit(make(name), "0.0.0.0", program))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@verifies
def test_systemd_finds_little_exposed(make, program, tmp_path):
    path = tmp_path / UNIT
    path.write_text(unit(make(), "0.0.0.0", program))
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={WORST_EXPOSURE}", "--json=short", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, [check["name"] for check in json.loads(done.stdout) if not check["set"]]


def test_a_folder_that_a_unit_file_can_not_hold_is_refused(make):
    with pytest.raises(CoordinatorError, match="unit file"):
        unit(make("two\nlines"), "0.0.0.0")


def test_the_command_writes_the_file_or_prints_it(make, typed, tmp_path):
    coordinator = make()
    code, shown, _ = typed(main, "fedct-coordinator")("systemd", "--dir", coordinator.folder, "--bind", "10.0.0.5")
    assert (code, shown.rstrip("\n")) == (0, unit(coordinator, "10.0.0.5").rstrip("\n"))
    (tmp_path / "units").mkdir()
    typed(main, "fedct-coordinator")("systemd", "--dir", coordinator.folder, "--out", tmp_path / "units")
    assert (tmp_path / "units" / UNIT).read_text() == unit(coordinator, "0.0.0.0")
    assert (tmp_path / "units" / UNIT).stat().st_mode & 0o777 == 0o644


# Linux's equivalent of MemoryDenyWriteExecute=, and what the daemon's processes import and do with a model
DENIED = """
import ctypes
PR_SET_MDWE, REFUSE_EXEC_GAIN = 65, 1
if ctypes.CDLL(None).prctl(PR_SET_MDWE, REFUSE_EXEC_GAIN, 0, 0, 0):
    print("not here")
    raise SystemExit
import server.app, server.daemon, server.executor, server.objects, server.superlink, server.calibration
import numpy as np, torch, uvicorn
from common.models import parts
from torch import nn
network = nn.Conv2d(3, 4, 3)
assert parts.add(list(network.parameters()), parts.read(list(network.parameters())))
print("runs")
"""


@pytest.mark.slow
def test_what_the_service_runs_needs_no_memory_that_is_written_and_then_executed():
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", DENIED], capture_output=True, text=True, cwd=root)
    if done.stdout == "not here\n":
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
