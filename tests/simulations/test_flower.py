import subprocess
import sys

import psutil
import pytest

from simulations.flower import environment, processes_of, stop_all


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
