from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

PARENT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os import getpid
from common.children import begin_child

if __name__ == "__main__":
    initializer = begin_child if sys.argv[1] == "begun" else None
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=initializer) as pool:
        print(pool.submit(getpid).result(), flush=True)
        pool.submit(time.sleep, 60).result()
"""


@pytest.mark.parametrize(("how", "ends"), [("begun", True), ("plain", False)])
def test_a_child_ends_with_a_parent_that_is_killed(tmp_path, how, ends):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, script, how], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs([child], timeout=10 if ends else 1)
        for process in alive:
            process.kill()
        assert (not alive) == ends
