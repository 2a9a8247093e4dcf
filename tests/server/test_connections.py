from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable

import httpx
import pytest
import uvicorn

from common.flower_env import free_port
from server.connections import HEAD_BYTES, bounded


async def app(scope, receive, send) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def port():
    found = free_port()
    config = uvicorn.Config(app, port=found, http=bounded(3, 0.5), lifespan="off", ws="none", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield found
    server.should_exit = True
    thread.join()


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(5)
    return sock


def is_cut(sock: socket.socket) -> bool:
    """Whether the server hangs up before it says a word."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_client_that_says_nothing_is_cut_off(port):
    with connect(port) as sock:
        assert is_cut(sock)


def send_until_cut(sock: socket.socket, parts: Iterable[bytes], pause: float) -> bool:
    """Whether the server hung up before all parts were sent."""
    with contextlib.suppress(ConnectionError):
        for part in parts:
            sock.sendall(part)
            time.sleep(pause)
        return False
    return True


def test_a_client_that_says_its_head_a_byte_at_a_time_is_cut_off(port):
    with connect(port) as sock:
        assert send_until_cut(sock, (bytes([byte]) for byte in b"GET /" + b"a" * 60), 0.05)


def test_a_second_head_has_no_more_time_than_the_first(port):
    with connect(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert sock.recv(1000).endswith(b"ok")
        time.sleep(0.7)  # idle after a response is allowed
        sock.sendall(b"GET / HT")
        assert is_cut(sock)


def test_a_head_without_end_is_cut_off(port):
    with connect(port) as sock:
        header = b"x: " + b"y" * (HEAD_BYTES // 8) + b"\r\n"
        assert send_until_cut(sock, [b"GET / HTTP/1.1\r\n", *[header] * 20], 0.01)


def test_a_slow_body_is_left_to_the_guard(port):
    with connect(port) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\na")
        time.sleep(0.8)
        sock.sendall(b"b")
        assert sock.recv(1000).endswith(b"ok")


def test_one_address_has_no_more_than_its_share_and_gets_it_back(port):
    held = [connect(port) for _ in range(3)]
    try:
        time.sleep(0.1)
        with connect(port) as one_more:
            begin = time.monotonic()
            assert is_cut(one_more)
            assert time.monotonic() - begin < 0.4
    finally:
        for sock in held:
            sock.close()
    time.sleep(0.2)
    assert httpx.get(f"http://127.0.0.1:{port}/").text == "ok"


def test_many_requests_over_one_connection_are_answered(port):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (0, 10, 200_000):
            assert client.post("/", content=b"x" * size).text == "ok"
