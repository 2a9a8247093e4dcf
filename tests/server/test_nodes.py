"""Registration of nodes: its order, and at this coordinator's own SuperLink over TLS on loopback."""

from __future__ import annotations

import fcntl
import socket
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from common.errors import RunError
from common.flower_env import LOOPBACK, flower_environment, free_port
from common.pki.address import Address
from common.pki.keys import new_p384_key, node_key_bytes, node_public, node_public_pem
from server import nodes as module
from server.ca import create
from server.control import KnownNode, NotRunning
from server.daemon import Daemon, services
from server.nodes import keep_registered, node_states, register_nodes
from server.registry import Node
from server.superlink import Listener

SECONDS = 60


def new_node(site: str) -> Node:
    return Node(site, node_public(new_p384_key()))


class Admitted:
    """A registry of these nodes."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = list(nodes)

    def admitted(self) -> tuple[Node, ...]:
        return tuple(self.nodes)


class FakeLink(Daemon):
    """A SuperLink in memory: it takes no key twice. ``calls`` counts how often it was connected to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1)
        self.table: list[KnownNode] = []
        self.there, self.calls = True, 0

    def control(self):
        self.calls += 1
        if not self.there:
            raise NotRunning("not there")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def __setattr__(self, name, value):  # Daemon is frozen
        self.__dict__[name] = value

    def nodes(self) -> list[KnownNode]:
        return list(self.table)

    def register(self, key: bytes, name: str) -> int:
        assert key not in {node.key for node in self.table}
        self.table.append(KnownNode(len(self.table) + 1, key, "registered"))
        return len(self.table)

    def unregister(self, node: int) -> None:
        self.table = [KnownNode(n.id, n.key, "unregistered") if n.id == node else n for n in self.table]

    def may_connect(self) -> set[bytes]:
        return {node.key for node in self.table if node.status != "unregistered"}


@pytest.fixture
def fake(tmp_path):
    (tmp_path / "superlink").mkdir()
    return FakeLink(tmp_path)


def keys_of(*nodes: Node) -> set[bytes]:
    return {node_public_pem(node.key) for node in nodes}


def test_a_registration_that_waited_for_another_reads_who_was_admitted_meanwhile(fake):
    """Else it would unregister for good whoever was admitted and registered since it looked."""
    early, late = new_node("early"), new_node("late")
    registry = Admitted(early)
    with (fake.superlink / "nodes.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = threading.Thread(target=register_nodes, args=(fake, registry))
        waiting.start()
        while not fake.calls:
            time.sleep(0.01)
        registry.nodes.append(late)
        fake.register(node_public_pem(late.key), "late")
    waiting.join()
    assert fake.may_connect() == keys_of(early, late)


def test_the_daemon_tells_a_superlink_that_came_late_and_one_that_missed_a_revocation(fake, monkeypatch):
    monkeypatch.setattr(module, "EVERY_SECONDS", 0.01)
    north, south = new_node("north"), new_node("south")
    registry, stop, notes = Admitted(north, south), threading.Event(), []
    fake.there = False
    thread = threading.Thread(target=keep_registered, args=(fake, registry, stop, notes.append))
    thread.start()

    def until(condition):
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    try:
        until(lambda: fake.calls > 2)
        assert notes == []
        fake.there = True
        until(lambda: notes)
        assert fake.may_connect() == keys_of(north, south)
        registry.nodes.remove(south)  # while nobody could tell the SuperLink
        until(lambda: len(notes) == 2)
        assert fake.may_connect() == keys_of(north)
        registry.nodes.append(south)
        until(lambda: len(notes) == 3)
    finally:
        stop.set()
        thread.join()
    assert notes[:2] == ["Sites that may connect: north, south", "Sites that may connect: north"]
    assert "takes no key twice" in notes[2]
    assert fake.may_connect() == keys_of(north)


def test_a_site_that_the_superlink_was_not_told_of_has_no_state(fake):
    north, south = new_node("north"), new_node("south")
    fake.register(node_public_pem(north.key), "north")
    assert node_states(fake, Admitted(north, south)) == {"north": "registered"}


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nodes") / "coordinator"
    return create(folder, "C", Address(LOOPBACK, free_port()), "correct horse battery", datetime.now(UTC))


@pytest.fixture(scope="module")
def link(coordinator):
    """This coordinator's daemon, with its SuperLink alone running; ended by its id."""
    daemon = Daemon(coordinator.folder, free_port())
    daemon.prepare()
    port = int(coordinator.config.address.rpartition(":")[2])
    listener = Listener(LOOPBACK, port, coordinator.server_file, coordinator.server_key_file)
    service = services(daemon, listener)[0]
    with service.log.open("wb") as log:
        process = subprocess.Popen(
            service.command, cwd=service.folder, env=dict(service.environment), stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                node_states(daemon, Admitted())
                break
            except NotRunning:
                assert process.poll() is None, service.log.read_text()
                assert time.monotonic() < end, service.log.read_text()
                time.sleep(0.2)
        yield daemon
    finally:
        end_process(process)


def end_process(process) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_the_superlink_knows_the_admitted_nodes_and_no_others(link):
    north, south, late = (new_node(name) for name in ("north", "south", "late"))

    def register(*admitted):
        return register_nodes(link, Admitted(*admitted))

    first = register(north, south)
    assert (first.added, first.removed) == (2, 0)
    assert set(first.nodes) == {"north", "south"}
    assert 0 not in first.nodes.values()
    again = register(north, south)
    assert (again.nodes, again.added, again.removed) == (first.nodes, 0, 0)
    changed = register(north, late)
    assert (changed.added, changed.removed) == (1, 1)
    assert changed.nodes["north"] == first.nodes["north"]
    with pytest.raises(RunError, match="unregistered the nodes of south once"):
        register(north, south, new := new_node("new"))
    assert set(register(north, new).nodes) == {"north", "new"}
    assert register().removed == 2


def connects(link, coordinator, node, home) -> bool:
    """Start a SuperNode with ``node``'s key, and say whether the SuperLink had it online before it ended."""
    home.mkdir()
    key, site = node
    (home / "node.key").write_bytes(node_key_bytes(key))
    command = [str(Path(sys.executable).parent / "flower-supernode"), "--superlink", coordinator.config.address]
    command += ["--root-certificates", str(coordinator.authority_file), "--isolation", "process"]
    command += ["--auth-supernode-private-key", str(home / "node.key"), "--port", str(free_port())]
    (home / "secret").write_text("s" * 64)
    command += ["--superexec-auth-secret-file", str(home / "secret")]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=home, env=flower_environment(home), stdout=log, stderr=log, start_new_session=True
        )
    try:
        end = time.monotonic() + SECONDS
        while process.poll() is None:
            if "online" in node_states(link, Admitted(site)).values():
                return True
            assert time.monotonic() < end, (home / "log").read_text()
            time.sleep(0.5)
        return False
    finally:
        end_process(process)


@pytest.mark.slow
def test_an_admitted_node_connects_and_one_that_is_not_or_no_longer_admitted_does_not(link, coordinator, tmp_path):
    key, stranger = new_p384_key(), new_p384_key()
    north, other = Node("north", node_public(key)), Node("stranger", node_public(stranger))
    register_nodes(link, Admitted(north))
    assert not connects(link, coordinator, (stranger, other), tmp_path / "stranger")
    assert connects(link, coordinator, (key, north), tmp_path / "north")
    register_nodes(link, Admitted())
    assert not connects(link, coordinator, (key, north), tmp_path / "revoked")


@pytest.mark.slow
def test_without_this_coordinators_secret_nothing_is_registered(link, tmp_path):
    thief = Daemon(tmp_path, link.control_port)
    thief.prepare()
    with pytest.raises(RunError, match="401"):
        register_nodes(thief, Admitted(new_node("thief")))
    assert "thief" not in register_nodes(link, Admitted()).nodes


@pytest.fixture
def daemon(tmp_path):
    made = Daemon(tmp_path, free_port())
    made.prepare()
    return made


def test_where_nothing_listens_or_nothing_was_ever_started_nothing_is_registered(daemon, tmp_path):
    with pytest.raises(NotRunning):
        register_nodes(daemon, Admitted())
    with pytest.raises(NotRunning):
        register_nodes(Daemon(tmp_path / "never", daemon.control_port), Admitted())


@pytest.mark.parametrize("greeting", [b"220 mail\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n\xff\xff\xff\xff"])
def test_something_else_on_the_port_is_no_superlink(daemon, greeting):
    def greet(server):
        connection, _ = server.accept()
        connection.recv(4096)
        connection.sendall(greeting)
        connection.close()

    with socket.create_server((LOOPBACK, daemon.control_port)) as server:
        thread = threading.Thread(target=greet, args=(server,))
        thread.start()
        with pytest.raises(RunError, match="does not answer as this coordinator's SuperLink") as caught:
            register_nodes(daemon, Admitted())
        thread.join()
    assert not isinstance(caught.value, NotRunning)
