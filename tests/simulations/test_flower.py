import socket
import subprocess
import sys
import tomllib

import psutil
import pytest

from simulations.flower import environment, processes_of, stop_all, write_bundle


def test_the_bundle_holds_references_and_settings_and_no_code(tmp_path, small_study):
    study = small_study()
    bundle = write_bundle(tmp_path / "bundle", study, 7)
    assert sorted(p.name for p in bundle.rglob("*")) == ["LICENSE", "README.md", "pyproject.toml"]
    content = tomllib.loads((bundle / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert content["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    assert content["config"] == {"study": study.digest, "seed": 7, "simulated": True}


def test_nothing_that_is_started_phones_home_or_installs(tmp_path):
    env = environment(tmp_path, tmp_path, tmp_path)
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert env["RAY_USAGE_STATS_ENABLED"] == "0"
    assert env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


SLEEP = "import sys, time; print('up', flush=True); time.sleep(60)"


@pytest.mark.parametrize("mark", ["environment", "folder"])
def test_every_process_of_a_run_is_found_by_either_mark_and_ended(tmp_path, mark):
    inside, outside = tmp_path / "run", tmp_path / "run-of-another"
    for folder in (inside, outside):
        folder.mkdir()

    def start(home):
        env = {"FLWR_HOME": str(home / "flwr")} if mark == "environment" else {}
        cwd = home if mark == "folder" else tmp_path.parent
        (home / "cwd").mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", SLEEP],
            env=env,
            cwd=cwd / "cwd" if mark == "folder" else cwd,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        process.stdout.readline()
        return process

    mine, other = start(inside), start(outside)
    try:
        assert [p.pid for p in processes_of(inside)] == [mine.pid]
        stop_all(inside)
        mine.wait(5)
        assert not psutil.pid_exists(mine.pid)
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_port_is_on_loopback_only():
    from simulations.flower import _free_port

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", _free_port()))
        assert sock.getsockname()[0] == "127.0.0.1"
