from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from client.ingest.pool import start_workers
from common.errors import DataError


def test_one_worker_is_this_process_and_keeps_the_order():
    with start_workers(1) as pool:
        assert list(pool.map(str, range(5))) == ["0", "1", "2", "3", "4"]
        assert next(iter(pool.map(lambda _: os.getpid(), [0]))) == os.getpid()


@pytest.mark.slow
def test_processes_keep_the_order_and_a_dead_one_is_a_clear_error():
    with start_workers(2) as pool:
        assert list(pool.map(str, range(40))) == [str(i) for i in range(40)]
        with pytest.raises(DataError, match="died"):
            list(pool.map(os._exit, [1]))


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed():
    code = (
        "import os, time\n"
        "from client.ingest.pool import start_workers\n"
        "with start_workers(1 + 1) as pool:\n"
        "    next(pool.map(abs, range(9)))\n"
        "    print(*pool._executor._processes, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(_lives(pid) for pid in pids):
        assert time.monotonic() < deadline, "workers outlived their parent"
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
