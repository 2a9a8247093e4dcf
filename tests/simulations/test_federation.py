import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from simulations.federation import RUN_PROCESS, _working

FAMILY = "import subprocess, sys; subprocess.run([sys.executable, sys.argv[1]])"


@pytest.fixture
def superlink(tmp_path):
    """A process with one child, whose program has the name that is asked for."""
    started = []

    def start(name):
        program = tmp_path / name
        program.write_text("import sys; sys.stdin.read()")
        process = subprocess.Popen([sys.executable, "-c", FAMILY, str(program)], stdin=subprocess.PIPE)
        started.append(process)
        return SimpleNamespace(process=process)

    yield start
    for process in started:
        process.stdin.close()
        process.wait()


def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_works_while_its_own_process_is_there(superlink):
    runtime = superlink(RUN_PROCESS)
    until(lambda: _working(runtime))
    runtime.process.stdin.close()
    until(lambda: not _working(runtime))


def test_flowers_executor_alone_is_no_run_at_work(superlink):
    runtime = superlink("flower-superexec")
    time.sleep(0.5)
    assert runtime.process.poll() is None
    assert not _working(runtime)
