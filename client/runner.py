"""The runner: takes tasks from the site's own node over loopback, and has the *installed* app do them.

It asks for ClientApp tasks and no others. Each runs in a process forked from one that has imported torch and
``client.task`` once and does nothing else (a fork server), so a task starts in milliseconds and from one thread.
Code in a bundle is never unpacked. What became of each is on a log that can't hold a patient's name (``common.logs``),
``SITE/runner/runner.log``. There is one runner a site: it holds a lock. Run as a process of its own::

    python -P -m client.runner SITE --address 127.0.0.1:PORT --secret FILE
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import sys
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from client.bundle import CLIENT_TASK
from client.order import TASK_MODULE, Order, carry_out, nothing
from client.site import load_site
from client.standing import hold
from common.logs import JsonLog, Level, place_of
from common.supervisor import told_by_signals

POLL_SECONDS = 0.3
ABSENT_SECONDS = 1.0
STOP_SECONDS = 5.0
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class Runner:
    """Asks the node at ``address`` for tasks, one at a time, and runs them for the site folder ``site``."""

    def __init__(self, address: str, secret: bytes, site: Path, log: JsonLog) -> None:
        self._address, self._site, self._log = address, site, log
        self._client = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={ACQUIRE}),
            ],
        )
        self._processes = warm_processes()
        self._next: AcquireTaskResponse | None = None

    def run(self, told_to_stop: threading.Event) -> None:
        """Work until told to stop; a task that runs then is ended."""
        self._log.write("runner-ready")
        absent = False
        while not told_to_stop.is_set():
            try:
                response, self._next = self._next or self._acquire(), None
            except httpx.HTTPError as error:
                if not absent:
                    self._log.write("node-absent", "warning", error=type(error).__name__)
                absent = True
                told_to_stop.wait(ABSENT_SECONDS)
                continue
            if absent:
                self._log.write("node-back")
            absent = False
            if response.HasField("task") and response.token:
                self._work(response, told_to_stop)
            else:
                told_to_stop.wait(POLL_SECONDS)
        self._client.close()

    def _acquire(self) -> AcquireTaskResponse:
        return self._client.AcquireTask(AcquireTaskRequest(supported_task_types=[CLIENT_TASK]))

    def _is_dropped(self, process: ForkServerProcess) -> bool:
        """Whether the node has another task already, which ``run`` then does.

        A node has one at a time. If its coordinator dies or stops the run while a message is on its way, Flower's node
        drops the message and leaves its task, which would wait two hours for the content.
        """
        with contextlib.suppress(httpx.HTTPError):
            found = self._acquire()
            if found.HasField("task") and found.token:
                self._next = found
                process.join(STOP_SECONDS)  # one that has just answered is about to end
                return True
        return False

    def _work(self, response: AcquireTaskResponse, told_to_stop: threading.Event) -> None:
        order = Order(self._address, response.token, response.task.type, self._site)
        reader, writer = self._processes.Pipe(duplex=False)
        begun = time.monotonic()
        process = self._processes.Process(target=carry_out, args=(order, writer), daemon=True)
        process.start()
        writer.close()
        self._log.write("task-started", process=process.pid)
        while process.is_alive() and not told_to_stop.is_set() and not self._is_dropped(process):
            process.join(POLL_SECONDS)
        _end(process)
        seconds = round(time.monotonic() - begun, 1)
        level: Level = "info" if process.exitcode == 0 else "error"
        self._log.write("task-ended", level, exit=process.exitcode, seconds=seconds, **_received(reader))


def warm_processes() -> ForkServerContext:
    """A fork server that has imported torch and ``client.task``, and has one thread."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([TASK_MODULE])
    first = processes.Process(target=nothing, daemon=True)
    first.start()
    first.join()
    return processes


def _received(reader: Connection) -> dict[str, str | int]:
    """What the process of a task said of it; nothing if it was killed."""
    with reader:
        try:
            said: dict[str, str | int] = json.loads(reader.recv_bytes()) if reader.poll() else {}
        except EOFError:
            return {}
        return said


def _end(process: ForkServerProcess) -> None:
    """End a process that is still there: asked first, then killed. The ledger holds what it reserved."""
    if process.is_alive():
        process.terminate()
        process.join(STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="client.runner")
    parser.add_argument("site", type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--secret", type=Path, required=True)
    given = parser.parse_args()
    told = told_by_signals()
    home = load_site(given.site).runner_dir
    home.mkdir(mode=0o700, exist_ok=True)
    log = JsonLog(home / "runner.log")
    with hold(home) as alone:
        if not alone:
            log.write("runner-runs-already", "error")
            sys.exit("another runner works for this site; there may be one")
        try:
            Runner(given.address, given.secret.read_bytes(), given.site, log).run(told)
        except Exception as error:  # its text may hold anything
            log.write("runner-failed", "error", error=type(error).__name__, where=place_of(error))
            sys.exit(1)


if __name__ == "__main__":
    main()
