"""Serving a page: where it may be reached, and its clean end.

Without accounts and TLS a page is for this machine alone. ``exposure`` refuses everything else.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import uvicorn
from cryptography import x509
from fastapi import FastAPI

from common.errors import UsageError, from_os_error
from common.flower_env import LOOPBACK
from common.web.accounts import Accounts

STOP_SECONDS = 3
LOCAL_NAMES = (LOOPBACK, "localhost")


@dataclass(frozen=True)
class Exposure:
    """Where a page listens and what it is called. ``accounts``: None where a link lets one person in."""

    host: str
    port: int
    names: tuple[str, ...]
    accounts: Accounts | None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def secure(self) -> bool:
        return self.certificate is not None

    @property
    def origin(self) -> str:
        """The page's address as it is printed."""
        return f"{'https' if self.secure else 'http'}://{self.names[0]}:{self.port}"

    def on(self, listener: socket.socket) -> Exposure:
        """The same at the port that was taken."""
        return replace(self, port=listener.getsockname()[1])

    def link(self, app: FastAPI) -> str:
        """What to open in a browser: with accounts the page itself, else the link that lets one person in."""
        if self.accounts is not None:
            return self.origin
        entrance: str = app.state.door.link
        return entrance


def exposure(host: str, port: int, accounts: Accounts, certificate: Path | None, key: Path | None) -> Exposure:
    """Where a page may listen. Raises UsageError unless it is on loopback, or there are both TLS and accounts."""
    known = accounts if accounts.read() else None
    if (certificate is None) != (key is None):
        raise UsageError("a certificate and its key belong together", "Give both --certificate and --key")
    if host != LOOPBACK and (certificate is None or known is None):
        missing = "accounts" if known is None else "TLS"
        raise UsageError(
            f"host '{host}' is reached from outside this machine, and there are no {missing}",
            f"Give --certificate and --key, and make accounts; or stay on {LOOPBACK}",
        )
    names = LOCAL_NAMES if certificate is None else _names(certificate)
    return Exposure(host, port, names, known, certificate, key)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UsageError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(f"{host}:{port} can't be listened on ({error.strerror})", "Give another --port") from None


def serve(app: FastAPI, listener: socket.socket, where: Exposure, ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; open streams are ended first. ``ready`` is called once requests are taken."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_SECONDS,
        ssl_certfile=where.certificate,
        ssl_keyfile=str(where.key) if where.key else None,
    )
    server = _Server(config, app, ready)
    with listener, contextlib.suppress(KeyboardInterrupt):  # uvicorn hands the signal on once it has stopped
        server.run(sockets=[listener])


@contextlib.contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have ``work`` done in a thread; at the end its event is set, and it is waited for.

    A thread that was left behind would be broken off in the middle of compiled code, which aborts the process.
    """
    stopping = threading.Event()
    thread = threading.Thread(target=work, args=(stopping,), name="meanwhile")
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


class _Server(uvicorn.Server):
    """uvicorn, which ends event streams before it waits for them."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stopping.set()
        await super().shutdown(sockets)


def _names(certificate: Path) -> tuple[str, ...]:
    """The names that a certificate is for. Raises UsageError if it has none."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except OSError as error:
        raise from_os_error(error) from None
    except ValueError as error:
        raise UsageError(f"'{certificate}' is no certificate ({error})", "Give one in PEM") from None
    with contextlib.suppress(x509.ExtensionNotFound):
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        given = (*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress)))
        if given:
            return given
    raise UsageError(f"certificate '{certificate}' names no host", "Give one with a subjectAltName")
