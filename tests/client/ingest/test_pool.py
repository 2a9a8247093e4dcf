from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from client.ingest import pool as pool_module
from client.ingest.pool import start_workers
from common.errors import DataError


def test_one_worker_is_this_process_and_keeps_the_order():
    with start_workers(1) as pool:
        assert list(pool.map(str, range(5))) == ["0", "1", "2", "3", "4"]
        assert next(iter(pool.map(lambda _: os.getpid(), [0]))) == os.getpid()


def test_threads_keep_the_order_and_pass_errors_on():
    with start_workers(2) as pool:
        assert list(pool.map_threads(str, range(40))) == [str(i) for i in range(40)]
        assert set(pool.map_threads(lambda _: os.getpid(), range(9))) == {os.getpid()}
        with pytest.raises(ZeroDivisionError):
            list(pool.map_threads(lambda number: 1 // number, [1, 0]))


def test_threads_that_nobody_waits_for_are_ended():
    before = threading.active_count()
    with start_workers(2) as pool:
        results = pool.map_threads(str, range(100))
        assert next(results) == "0"
        results.close()
        assert threading.active_count() == before


def process(_: object) -> int:
    """Which process does a job."""
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize(("total", "count"), [(9, 9), (None, 9)])
def test_work_that_is_long_goes_on_in_processes(monkeypatch, total, count):
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0)
    with start_workers(2) as pool:
        first, *others = pool.map(os.path.abspath, [str(i) for i in range(count)], total)
        assert [os.path.basename(one) for one in (first, *others)] == [str(i) for i in range(count)]
        assert pool._processes is not None


def test_work_that_is_short_starts_no_process():
    with start_workers(2) as pool:
        assert set(pool.map(process, range(9), 9)) == {os.getpid()}
        assert pool._processes is None


@pytest.mark.slow
def test_processes_keep_the_order_and_a_dead_one_is_a_clear_error():
    with start_workers(2) as pool:
        assert list(pool.map_apart(str, range(40))) == [str(i) for i in range(40)]
        with pytest.raises(DataError, match="died"):
            list(pool.map_apart(os._exit, [1]))


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed():
    code = (
        "import os, time\n"
        "from client.ingest.pool import start_workers\n"
        "with start_workers(1 + 1) as pool:\n"
        "    next(pool.map_apart(abs, range(9)))\n"
        "    print(*pool._processes._processes, flush=True)\n"
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
