"""The least that a round can cost: its bytes through TLS once down and once up, and nothing else.

One process listens on loopback and talks to each peer in a thread of its own, as a coordinator would; each peer is a
process. Plain ``ssl`` sockets carry one message each way: no HTTP, no digests, nothing stored. The clock runs from the
first byte down until the last byte up; processes and handshakes are there before.
"""

from __future__ import annotations

import multiprocessing
import resource
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from common.flower_env import LOOPBACK

_READ = 1 << 20


@dataclass(frozen=True)
class Floor:
    """What it took: ``seconds`` by the clock, and ``processor_seconds`` of all processes together."""

    seconds: float
    processor_seconds: float


def measure_floor(certificate: Path, key: Path, authority: Path, *, peers: int, message: int) -> Floor:
    """Send ``message`` bytes to each of ``peers``, and as many back. OSError passes through."""
    server = socket.create_server((LOOPBACK, 0), backlog=peers)
    context = multiprocessing.get_context("spawn")
    port = server.getsockname()[1]
    ours, theirs = context.Pipe(duplex=False)
    processes = [context.Process(target=_peer, args=(port, authority, message, theirs)) for _ in range(peers)]
    coordinator = context.Process(target=_coordinate, args=(server, certificate, key, peers, message, theirs))
    for process in (coordinator, *processes):
        process.start()
    theirs.close()
    server.close()
    try:
        used: list[Floor] = [ours.recv() for _ in range(peers + 1)]
    finally:
        for process in (coordinator, *processes):
            process.join()
    return Floor(max(one.seconds for one in used), sum(one.processor_seconds for one in used))


def _coordinate(
    server: socket.socket, certificate: Path, key: Path, peers: int, message: int, result: Connection
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    links = [tls.wrap_socket(server.accept()[0], server_side=True) for _ in range(peers)]
    content = bytes(message)
    used = _processor_seconds()
    threads = [threading.Thread(target=_exchange, args=(link, content, message)) for link in links]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.send(Floor(time.monotonic() - begun, _processor_seconds() - used))
    for link in links:
        link.close()


def _exchange(link: ssl.SSLSocket, content: bytes, message: int) -> None:
    link.sendall(content)
    _take(link, message)


def _peer(port: int, authority: Path, message: int, result: Connection) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_verify_locations(authority)
    with tls.wrap_socket(socket.create_connection((LOOPBACK, port)), server_hostname=LOOPBACK) as link:
        used = _processor_seconds()
        link.sendall(_take(link, message))
        result.send(Floor(0.0, _processor_seconds() - used))


def _take(link: ssl.SSLSocket, message: int) -> bytearray:
    """The next ``message`` bytes."""
    content = bytearray(message)
    rest = memoryview(content)
    while rest:
        got = link.recv_into(rest[:_READ])
        if not got:
            raise ConnectionError("the peer went away in the middle of a message")
        rest = rest[got:]
    return content


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
