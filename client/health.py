"""Whether a site's daemon does its work, for monitoring: a loopback endpoint with two pages.

``/health`` is 200 when nothing is wrong, else 503; JSON with the codes of what is:

* ``node-down``: nothing answers on the loopback port of the node;
* what the node noted (``client.contact``): ``no-contact-yet``, ``contact-lost``, ``certificate``, ``tls``, ``proxy``,
  ``unreachable``, ``not-accepted``, ``answer-N``: a daemon that only ever fails to connect is never healthy;
* ``runner-down``: the runner is not there, or ended within the last 30 s;
* ``records-damaged``: ledger or audit log fails its own checks, so every round is refused.

``/metrics`` is for Prometheus (``client.metrics``). The node's half of the daemon can't read the site's records, and
tells of node and contact alone.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from client.contact import read_contact
from client.metrics import CONTENT_TYPE, Records, Sample, exposition, records_of
from client.site import Site
from common.errors import FedctError, SiteError
from common.flower_env import LOOPBACK
from common.supervisor import Event

UNSETTLED_SECONDS = 30.0
_ANSWER_SECONDS = 2.0


class Standing:
    """How the services of ``parts`` do at ``site``; fed by the supervisor, asked by the endpoint's threads."""

    def __init__(
        self,
        site: Site,
        parts: tuple[str, ...],
        port: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._site, self._parts, self._port = site, parts, port
        self._clock, self._now = clock, now
        self._starts = dict.fromkeys(parts, 0)
        self._running = dict.fromkeys(parts, False)
        self._ended: dict[str, float] = {}
        self._records: tuple[object, Records] | None = None
        self._lock = threading.Lock()

    def happened(self, event: Event) -> None:
        """Take note of what befell a service."""
        with self._lock:
            self._running[event.service] = event.what == "started"
            if event.what == "started":
                self._starts[event.service] += 1
            elif event.what == "ended":
                self._ended[event.service] = self._clock()

    def problems(self) -> tuple[str, ...]:
        """Codes of what is wrong; none if the site would answer the coordinator."""
        found = [] if answers(self._port) else ["node-down"]
        contact = read_contact(self._site.node_dir)
        trouble = contact.trouble(self._now()) if contact else "no-contact-yet"
        found += [trouble] if trouble else []
        if "runner" in self._parts:
            found += [] if self._settled("runner") else ["runner-down"]
            found += [] if self.records() else ["records-damaged"]
        return tuple(found)

    def samples(self) -> list[Sample]:
        """All that ``/metrics`` shows."""
        problems = self.problems()
        found = [Sample("fedct_site_healthy", int(not problems))]
        found += [Sample("fedct_site_problem", 1, {"code": code}) for code in problems]
        contact = read_contact(self._site.node_dir)
        silence = contact.silence(self._now()) if contact else None
        if silence is not None:
            found.append(Sample("fedct_site_seconds_since_contact", silence))
        with self._lock:
            restarts = {name: max(0, starts - 1) for name, starts in self._starts.items()}
        found += [Sample("fedct_site_restarts_total", count, {"service": name}) for name, count in restarts.items()]
        records = self.records() if "runner" in self._parts else None
        return [*found, *(records.samples() if records else [])]

    def records(self) -> Records | None:
        """What ledger and audit log say, read again only when one of them changed; None if one is damaged."""
        state = [_state(path) for path in (self._site.audit_file, self._site.ledger_file.with_suffix(".head"))]
        with self._lock:
            if self._records is None or self._records[0] != state:
                try:
                    self._records = (state, records_of(self._site))
                except FedctError:
                    return None
            return self._records[1]

    def _settled(self, service: str) -> bool:
        with self._lock:
            ended = self._ended.get(service)
            return self._running[service] and (ended is None or self._clock() - ended >= UNSETTLED_SECONDS)


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None for what is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def answers(port: int) -> bool:
    """Whether something listens on this port of loopback."""
    try:
        socket.create_connection((LOOPBACK, port), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def watched(standing: Standing, port: int) -> Iterator[None]:
    """Serve the endpoint on loopback ``port`` meanwhile; 0: don't. Raises SiteError when the port is taken."""
    if not port:
        yield
        return
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), _handler(standing))
    except OSError as error:
        raise SiteError(
            f"service.metrics_port = {port}: can't listen there ({error.strerror})", "Choose a port that is free"
        ) from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(standing: Standing) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0  # of a client that says nothing
        server_version, sys_version = "fedct", ""

        def do_GET(self) -> None:
            if self.path == "/health":
                problems = standing.problems()
                content = json.dumps({"healthy": not problems, "problems": problems}).encode()
                self._answer(503 if problems else 200, "application/json", content)
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE, exposition(standing.samples()).encode())
            else:
                self._answer(404, "text/plain", b"")

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing: monitoring asks every few seconds."""

    return Handler
