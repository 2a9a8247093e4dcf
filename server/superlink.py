"""Flower's SuperLink in process isolation, with two listeners in one process.

Everything on loopback, for operators and the executor, each with a secret; and over TLS what hospitals may call
(``server.listener``). Each listener has a thread, an event loop and worker threads of its own, so a flood on
one does not hold up the other. Run as a process of its own::

    python -P -m server.superlink FOLDER --loopback-port P --host H --port Q --certificate FILE --key FILE

``FOLDER`` holds ``superlink.db``, ``executor.secret`` and ``operator.secret``; see ``server.daemon``.
Every private part of Flower that is used here has a canary in tests/server/test_superlink.py.
"""

from __future__ import annotations

import argparse
import resource
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RunError
from common.flower_env import LOOPBACK
from server.listener import OperatorGuard, PublicGuard

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

BUSY_MILLISECONDS = 60_000
MOST_CONNECTIONS = 1000
MOST_PER_ADDRESS = 250  # a node has 3 at most; several may share an address
HEAD_SECONDS = 20.0
IDLE_SECONDS = 75
STOP_SECONDS = 5
DATABASE = "superlink.db"
EXECUTOR_SECRET = "executor.secret"  # noqa: S105 - a file name
OPERATOR_SECRET = "operator.secret"  # noqa: S105 - a file name


@dataclass(frozen=True)
class Listener:
    """Where hospitals connect: address to bind, and PEM files of the server's certificate and key."""

    host: str
    port: int
    certificate: Path
    key: Path


def wait_longer_for_locks() -> None:
    """Let SQLite wait 60 s for a lock, where Flower gives up after 5 s and answers 500, which nodes don't retry.

    Call before anything of Flower that opens a database is imported: the pragmas are bound by import.
    Raises RunError when that is too late, or Flower has none to set.
    """
    from flwr.supercore import constant

    if "flwr.supercore.sql_mixin" in sys.modules:
        raise RunError("Flower's database module was imported before its pragmas were set")
    pragmas = dict(constant.SQLITE_PRAGMAS)
    if "busy_timeout" not in pragmas:
        raise RunError("this release of Flower sets no SQLite busy_timeout", "Install the flwr that fedct names")
    constant.SQLITE_PRAGMAS = tuple((pragmas | {"busy_timeout": str(BUSY_MILLISECONDS)}).items())  # type: ignore[assignment]


def make_app(folder: Path) -> FastAPI:
    """Flower's app with node authentication and process isolation; it installs nothing and starts nothing."""
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    from server.objects import keep_objects_in_files
    from server.uploads import hold_back_what_has_not_arrived

    keep_objects_in_files()
    hold_back_what_has_not_arrived()
    config = SuperLinkLifespanConfig(
        control_address="",
        health_server_address=None,
        host=LOOPBACK,
        port=0,
        insecure=True,  # of the loopback listener; TLS is the public listener's
        certificates=None,
        superexec_auth_secret=(folder / EXECUTOR_SECRET).read_bytes(),
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(folder / DATABASE),
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    return create_app(config, SuperLinkLifespan)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises RunError naming the address when it is taken or not ours."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise RunError(
            f"can't listen on {host}:{port} ({error.strerror})", "Stop what listens there, or choose another address"
        ) from None


def servers(folder: Path, listener: Listener) -> tuple[uvicorn.Server, uvicorn.Server]:
    """The loopback server and the public one, around one app; Flower's lifespan is the loopback server's."""
    import uvicorn
    from flwr.supercore.http_logging import get_uvicorn_log_config
    from flwr.supercore.logger import console_handler

    from server.admission import replies_for_itself, signed_by
    from server.connections import bounded

    app = make_app(folder)
    secret = (folder / OPERATOR_SECRET).read_text(encoding="ascii").strip()
    loopback = uvicorn.Config(
        OperatorGuard(app, secret),
        host=LOOPBACK,
        log_config=get_uvicorn_log_config(console_handler.level),
        ws="none",
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    public = uvicorn.Config(
        PublicGuard(app, signed_by(app.state.linkstate_factory.state().get_node_id_by_public_key), replies_for_itself),
        host=listener.host,
        http=bounded(MOST_PER_ADDRESS, HEAD_SECONDS),
        log_config=None,
        lifespan="off",
        ws="none",
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=str(listener.certificate),
        ssl_keyfile=str(listener.key),
    )
    return uvicorn.Server(loopback), uvicorn.Server(public)


def serve(folder: Path, loopback_port: int, listener: Listener) -> None:
    """Serve until SIGTERM or SIGINT. Raises RunError when an address is taken or the public listener ends by itself."""
    wait_longer_for_locks()
    _allow_many_connections()
    inner, outer = bind(LOOPBACK, loopback_port), bind(listener.host, listener.port)
    loopback, public = servers(folder, listener)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises it once more when it has stopped
    thread = threading.Thread(target=_run_public, args=(public, loopback, outer), name="public", daemon=True)
    thread.start()
    loopback.run(sockets=[inner])
    by_itself = not thread.is_alive()
    public.should_exit = True
    thread.join(2 * STOP_SECONDS)
    if by_itself:
        raise RunError("the public listener ended by itself", "See the lines above")


def _allow_many_connections() -> None:
    """As many open files as the system lets us have, so that idle connections don't shut the executor out."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _run_public(public: uvicorn.Server, loopback: uvicorn.Server, sock: socket.socket) -> None:
    try:
        public.run(sockets=[sock])
    finally:
        loopback.should_exit = True  # one without the other is of no use; whoever supervises starts both again


def main() -> None:
    """Entry point of the process."""
    parser = argparse.ArgumentParser(prog="server.superlink")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--loopback-port", type=int, required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    given = parser.parse_args()
    serve(given.folder, given.loopback_port, Listener(given.host, given.port, given.certificate, given.key))


if __name__ == "__main__":
    main()
