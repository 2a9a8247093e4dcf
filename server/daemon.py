"""The coordinator's daemon: the SuperLink and its executor, supervised; and the folder that they work in.

::

    DIR/
      superlink/          mode 0700: superlink.db, executor.secret, operator.secret, nodes.lock, logs; flwr/ and empty/
      runs/NAME/          one run folder a run (server.run_folder)
"""

from __future__ import annotations

import secrets
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.files import write_atomic
from common.flower_env import LOOPBACK, flower_environment
from common.pki.address import parse_address
from common.supervisor import Service, supervise
from server.control import START, Control, NotRunning
from server.coordinator import COORDINATOR_VARIABLE, Coordinator, read_file
from server.nodes import keep_registered
from server.registry import Registry
from server.resume import keep_resumed
from server.run_folder import RUN_VARIABLE
from server.superlink import EXECUTOR_SECRET, OPERATOR_SECRET, Listener, bind
from server.tracking import require


@dataclass(frozen=True)
class Daemon:
    """Where the daemon works: the coordinator's folder, and the loopback port for operators and the executor."""

    folder: Path
    control_port: int

    @property
    def superlink(self) -> Path:
        return self.folder / "superlink"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def control(self) -> Control:
        """A connection to the SuperLink. Raises NotRunning when none was ever started here."""
        try:
            secret = (self.superlink / OPERATOR_SECRET).read_text(encoding="ascii")
        except FileNotFoundError:
            raise NotRunning(f"no SuperLink was started in '{self.folder}'", START) from None
        return Control(self.control_port, secret)

    def prepare(self) -> None:
        """Make the folders and secrets that are not there yet."""
        for folder in (self.superlink, self.superlink / "flwr", self.superlink / "empty", self.runs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in (EXECUTOR_SECRET, OPERATOR_SECRET):
            if not (self.superlink / name).exists():
                write_atomic(self.superlink / name, secrets.token_hex(32).encode())


def daemon_of(coordinator: Coordinator) -> Daemon:
    """The daemon of a coordinator's folder."""
    return Daemon(coordinator.folder, parse_address(coordinator.config.control).port)


def services(daemon: Daemon, listener: Listener) -> list[Service]:
    """The SuperLink and the executor, as the supervisor runs them."""
    home = daemon.superlink
    environment = flower_environment(home) | {RUN_VARIABLE: str(daemon.runs), COORDINATOR_VARIABLE: str(daemon.folder)}
    link = (
        *("server.superlink", str(home), "--loopback-port", str(daemon.control_port)),
        *("--host", listener.host, "--port", str(listener.port)),
        *("--certificate", str(listener.certificate), "--key", str(listener.key)),
    )
    executor = (
        *("server.executor", "--runtime-api-address", f"{LOOPBACK}:{daemon.control_port}", "--insecure"),
        *("--superexec-auth-secret-file", str(home / EXECUTOR_SECRET)),
    )
    python = (sys.executable, "-P", "-m")  # -P: never from the working directory
    return [
        Service("superlink", (*python, *link), environment, home / "empty", home / "superlink.log"),
        Service("executor", (*python, *executor), environment, home / "empty", home / "executor.log"),
    ]


def run(coordinator: Coordinator, host: str, told_to_stop: threading.Event, note: Callable[[str], None]) -> None:
    """Serve sites at ``host`` and the port of the coordinator's address until told to stop.

    Raises CoordinatorError when a file of the folder is missing, RunError when an address is taken.
    """
    for path in (coordinator.server_file, coordinator.server_key_file):
        read_file(path)
    port = parse_address(coordinator.config.address).port
    listener = Listener(host, port, coordinator.server_file, coordinator.server_key_file)
    registry, daemon = Registry(coordinator.registry_file), daemon_of(coordinator)
    require(coordinator.config.tracking)
    registry.admitted()  # a damaged registry is said now
    for address in ((host, port), (LOOPBACK, daemon.control_port)):
        bind(*address).close()
    daemon.prepare()
    for work in (partial(keep_registered, daemon, registry), partial(keep_resumed, daemon)):
        threading.Thread(target=work, args=(told_to_stop, note), daemon=True).start()
    supervise(services(daemon, listener), told_to_stop, lambda event: note(str(event)))
