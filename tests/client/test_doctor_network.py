"""The doctor's way to the coordinator, against a server that speaks TLS under an authority of its own."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from cryptography.hazmat.primitives import serialization

from client import doctor_network as network
from client.site import AUTHORITY, NODE_KEY, CoordinatorSettings, ServiceSettings, SiteConfig, create_site
from common.pki import keys
from common.pki.address import Address
from common.pki.certificates import certificate_text, make_authority, make_server

HOST = "127.0.0.2"  # loopback, but not what NO_PROXY of the node names


class Coordinator:
    """Answers /health, and 400 or 401 to what is signed. ``clock``: seconds that its clock is behind ours."""

    def __init__(self, folder, *, started: datetime):
        self.clock, self.admits, self.signed = 0.0, True, []
        self._socket = socket.create_server((HOST, 0))
        self.port = self._socket.getsockname()[1]
        key, server_key = keys.new_p384_key(), keys.new_p384_key()
        self.authority = make_authority("C", key, started)
        server = make_server(self.authority, key, server_key.public_key(), Address(HOST, self.port), started)
        (folder / "server.pem").write_text(certificate_text(server))
        (folder / "server.key").write_bytes(
            server_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self.answer(200 if self.path == "/health" else 404)

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.signed.append((self.path, body, dict(self.headers)))
                self.answer(400 if outer.admits else 401)

            def answer(self, status):
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def date_time_string(self, timestamp=None):
                return format_datetime(datetime.now(UTC) - timedelta(seconds=outer.clock), usegmt=True)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer((HOST, 0), Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = context.wrap_socket(self._socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def start(tmp_path):
    """Start a coordinator whose certificates begin at a time."""
    started = []

    def run(begin=None):
        started.append(Coordinator(tmp_path, started=begin or datetime.now(UTC)))
        return started[-1]

    yield run
    for one in started:
        one.close()


@pytest.fixture
def coordinator(start):
    return start()


@pytest.fixture
def join(tmp_path):
    """A site that joined the coordinator."""

    def make(coordinator, authority=None, proxy=""):
        settings = CoordinatorSettings(address=f"{HOST}:{coordinator.port}", study_key="a" * 64, invitation="b" * 64)
        service = ServiceSettings(proxy=proxy)
        made = create_site(tmp_path / "site", SiteConfig(name="site-1", coordinator=settings))
        made.node_dir.mkdir()
        (made.node_dir / AUTHORITY).write_text(certificate_text(authority or coordinator.authority))
        (made.node_dir / NODE_KEY).write_bytes(keys.node_key_bytes(keys.new_p384_key()))
        return type(made)(made.folder, made.config.model_copy(update={"service": service}))

    return make


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in network._PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def states(checks) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def one(checks, name):
    (found,) = [check for check in checks if check.name == name]
    return found


def test_a_site_that_may_take_part_passes_every_check(coordinator, join):
    found = network.checks(join(coordinator))
    names = ["enrolment", "connection", "certificate", "clock", "registration"]
    assert states(found) == dict.fromkeys(names, "ok")
    assert "directly" in one(found, "connection").found
    assert "398 days" in one(found, "certificate").found or "397 days" in one(found, "certificate").found


def test_what_is_signed_is_the_nodes_and_asks_for_nothing(coordinator, join):
    network.checks(join(coordinator))
    ((path, body, headers),) = coordinator.signed
    assert (path, body) == ("/v1/fleet/get-run", b"\xff")
    assert {"flwr-timestamp"} <= {name.lower() for name in headers}


def test_a_key_that_is_not_admitted_is_told_so(coordinator, join):
    coordinator.admits = False
    found = one(network.checks(join(coordinator)), "registration")
    assert (found.state, "admitted or revoked" in found.remedy) == ("fail", True)


@pytest.mark.parametrize(
    ("seconds", "state"), [(0, "ok"), (4, "warn"), (60, "fail"), (-30, "ok"), (-120, "warn"), (-400, "fail")]
)
def test_a_clock_is_as_wrong_as_the_coordinator_lets_it_be(coordinator, join, seconds, state):
    coordinator.clock = seconds
    assert one(network.checks(join(coordinator)), "clock").state == state


def test_an_authority_of_somebody_else_is_not_trusted(coordinator, join):
    stranger = make_authority("X", keys.new_p384_key(), datetime.now(UTC))
    found = network.checks(join(coordinator, stranger))
    assert states(found) == {"enrolment": "ok", "connection": "fail"}
    assert "certificate" in found[-1].found
    assert "inspects TLS" in found[-1].remedy
    assert coordinator.signed == []


def test_a_server_certificate_that_ended_is_said_to_have_expired(start, join):
    coordinator = start(datetime.now(UTC) - timedelta(days=400))
    found = network.checks(join(coordinator))[-1]
    assert (found.state, "expired" in found.found) == ("fail", True)


def test_a_server_certificate_that_ends_soon_is_warned_about(start, join):
    coordinator = start(datetime.now(UTC) - timedelta(days=380))
    assert states(network.checks(join(coordinator)))["certificate"] == "warn"


def test_an_authority_that_ends_soon_is_warned_about(start, join):
    coordinator = start(datetime.now(UTC) - timedelta(days=3640))
    assert network.checks(join(coordinator))[0].state == "warn"


def test_a_coordinator_that_does_not_answer_is_named_with_the_firewall(coordinator, join):
    site = join(coordinator)
    coordinator.close()
    found = network.checks(site)[-1]
    assert (found.name, found.state, "unreachable" in found.found) == ("connection", "fail", True)
    assert f"{HOST}:{coordinator.port}" in found.found
    coordinator.close = lambda: None


@pytest.mark.parametrize("name", [NODE_KEY, AUTHORITY])
def test_what_joining_gave_is_missed(coordinator, join, name):
    site = join(coordinator)
    (site.node_dir / name).unlink()
    (found,) = network.checks(site)
    assert (found.name, found.state, name in found.found) == ("enrolment", "fail", True)
    assert found.remedy


class Proxy:
    """An HTTPS proxy: takes CONNECT, and tells for where."""

    def __init__(self, answer=b"HTTP/1.1 200 OK\r\n\r\n"):
        self.asked, self._answer = [], answer
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._sockets = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            self.asked.append(head.split(b"\r\n")[0].decode())
            client.sendall(self._answer)
            if b" 200 " not in self._answer:
                client.close()
                continue
            host, port = self.asked[-1].split()[1].split(":")
            server = socket.create_connection((host, int(port)))
            self._sockets += [client, server]
            for pair in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=self._pump, args=pair))
                self._threads[-1].start()

    @staticmethod
    def _pump(source, target):
        try:
            while block := source.recv(1 << 16):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for thread in self._threads:
            thread.join(20)
        for one_ in self._sockets:
            one_.close()


@pytest.fixture
def proxy():
    made = []

    def make(*arguments):
        made.append(Proxy(*arguments))
        return made[-1]

    yield make
    for one_ in made:
        one_.close()


@pytest.mark.parametrize("by", ["site.toml", "environment"])
def test_it_goes_through_the_proxy_that_the_node_goes_through(coordinator, join, proxy, monkeypatch, by):
    way = proxy()
    url = f"http://user:secret@127.0.0.1:{way.port}"
    if by == "environment":
        monkeypatch.setenv("HTTPS_PROXY", url)
    found = network.checks(join(coordinator, proxy=url if by == "site.toml" else ""))
    assert set(states(found).values()) == {"ok"}
    assert set(way.asked) == {f"CONNECT {HOST}:{coordinator.port} HTTP/1.1"}
    assert f"through the proxy http://127.0.0.1:{way.port}" in one(found, "connection").found
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("name", "value"),
    [("https_proxy", "http://127.0.0.1:9"), ("all_proxy", "http://127.0.0.1:9"), ("no_proxy", HOST), ("no_proxy", "*")],
)
def test_no_variable_of_the_environment_sends_it_past_the_proxy_of_the_site(
    coordinator, join, proxy, monkeypatch, name, value
):
    way = proxy()
    monkeypatch.setenv(name, value)
    found = network.checks(join(coordinator, proxy=f"http://127.0.0.1:{way.port}"))
    assert set(states(found).values()) == {"ok"}
    assert set(way.asked) == {f"CONNECT {HOST}:{coordinator.port} HTTP/1.1"}


def test_a_proxy_that_refuses_is_told_from_a_coordinator_that_does(coordinator, join, proxy):
    way = proxy(b"HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n")
    found = network.checks(join(coordinator, proxy=f"http://127.0.0.1:{way.port}"))[-1]
    assert (found.state, "proxy" in found.found, "service.proxy" in found.remedy) == ("fail", True, True)


def test_afterwards_the_environment_is_as_it_was(coordinator, join, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "hospital.example")
    site = join(coordinator, proxy="http://127.0.0.1:9")
    with network.going_as_the_node(site):
        assert network.os.environ["HTTPS_PROXY"] == "http://127.0.0.1:9"
        assert "hospital.example" not in network.os.environ["NO_PROXY"]
    assert "HTTPS_PROXY" not in network.os.environ
    assert network.os.environ["NO_PROXY"] == "hospital.example"


def test_a_coordinator_that_says_nothing_does_not_hold_the_doctor_up(join, monkeypatch):
    monkeypatch.setattr(network, "SECONDS", 0.5)
    with socket.create_server((HOST, 0)) as silent:
        silent_coordinator = type("C", (), {"port": silent.getsockname()[1]})
        authority = make_authority("X", keys.new_p384_key(), datetime.now(UTC))
        begun = time.monotonic()
        found = network.checks(join(silent_coordinator, authority))[-1]
    assert (found.state, "unreachable" in found.found) == ("fail", True)
    assert time.monotonic() - begun < 120
