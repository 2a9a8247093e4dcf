"""The SuperLink as a process, attacked on both its listeners; and canaries on every private part of Flower we use."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListNodesRequest, ListRunsRequest, RegisterNodeRequest, StartRunRequest
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest, PushMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest, GetNodesRequest, PullTaskInputRequest
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import RunError
from common.flower_env import free_port
from server.bundle import bundle_files
from server.daemon import Daemon, services
from server.listener import PUBLIC
from server.superlink import EXECUTOR_SECRET, Listener, bind, wait_longer_for_locks


class Link:
    """A SuperLink that runs, and clients of it."""

    def __init__(self, daemon: Daemon, listener: Listener, authority: bytes) -> None:
        self.daemon, self.listener, self.authority = daemon, listener, authority

    def public(self, kind, key=None):
        """A client of Flower's, at the public listener; signing with ``key``."""
        interceptors = [NodeAuthHttpInterceptor(key, key.public_key())] if key else []
        return kind.from_server_address(f"127.0.0.1:{self.listener.port}", False, self.authority, interceptors)

    def loopback(self, kind, interceptors=()):
        return kind.from_server_address(f"127.0.0.1:{self.daemon.control_port}", True, None, interceptors)

    def status(self, call) -> int:
        """The HTTP status of a call."""
        try:
            call()
        except httpx.HTTPStatusError as error:
            return error.response.status_code
        return 200


@pytest.fixture(scope="module")
def link(tmp_path_factory, write_certificates):
    folder = tmp_path_factory.mktemp("link")
    write_certificates(folder)
    daemon = Daemon(folder, free_port())
    daemon.prepare()
    listener = Listener("127.0.0.1", free_port(), folder / "server.crt", folder / "server.key")
    service = services(daemon, listener)[0]
    with service.log.open("wb") as log:
        process = subprocess.Popen(
            service.command, cwd=service.folder, env=dict(service.environment), stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with daemon.control() as control:
                    control.runs()
                break
            except RunError:
                assert process.poll() is None, service.log.read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
        yield Link(daemon, listener, (folder / "ca.crt").read_bytes())
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(30)
    assert code == 0
    assert "Traceback" not in service.log.read_text()


@pytest.fixture(scope="module")
def run(link, small_study):
    """A run with a bundle that waits for its executor."""
    with link.daemon.control() as control:
        return control.start_run(bundle_files(small_study(), 0, simulated=False, run="r"))


@pytest.fixture(scope="module")
def fab_hash(small_study):
    content, _ = build_fab_from_files(bundle_files(small_study(), 0, simulated=False, run="r"))
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def nodes(link, tmp_path_factory, write_node_key):
    """Two registered, active nodes: (key, number) each."""
    found = []
    for name in ("a", "b"):
        key = write_node_key(tmp_path_factory.mktemp("keys") / name)
        with link.daemon.control() as control:
            control.register(public_key_to_bytes(key.public_key()), name)
        request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30)
        with link.public(FleetHttpClient, key) as client:
            found.append((key, client.ActivateNode(request).node_id))
    return found


pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")]


def test_hospitals_see_health_over_tls_and_nothing_of_the_server(link):
    context = ssl.create_default_context(cadata=link.authority.decode())
    answer = httpx.get(f"https://127.0.0.1:{link.listener.port}/health", verify=context)
    assert answer.status_code == 200
    assert "server" not in answer.headers


def test_the_public_listener_speaks_tls_only(link):
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{link.listener.port}/health")


FAB = fab_to_proto(Fab("0" * 64, b"x", {}))


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        pytest.param(ControlHttpClient, lambda c: c.StartRun(StartRunRequest(fab=FAB)), id="start a run"),
        pytest.param(ControlHttpClient, lambda c: c.ListRuns(ListRunsRequest()), id="list runs"),
        pytest.param(ControlHttpClient, lambda c: c.ListNodes(ListNodesRequest()), id="list sites"),
        pytest.param(ControlHttpClient, lambda c: c.RegisterNode(RegisterNodeRequest(public_key=b"k")), id="register"),
        pytest.param(
            RuntimeHttpClient,
            lambda c: c.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"])),
            id="claim a task",
        ),
        pytest.param(RuntimeHttpClient, lambda c: c.PullTaskInput(PullTaskInputRequest()), id="read a task's bundle"),
        pytest.param(RuntimeHttpClient, lambda c: c.GetNodes(GetNodesRequest()), id="list nodes as a task"),
        pytest.param(FleetHttpClient, lambda c: c.RegisterNode(RegisterNodeFleetRequest(public_key=b"k")), id="join"),
    ],
)
@pytest.mark.parametrize("registered", [False, True])
def test_what_is_the_operators_is_not_there_for_hospitals(link, run, nodes, kind, call, registered):
    with link.public(kind, nodes[0][0] if registered else None) as client:
        assert link.status(lambda: call(client)) == 404


FLEET_CALLS = [
    pytest.param(
        lambda c, node, run, fab: c.GetFab(GetFabRequest(node=node, hash_str=fab, run_id=run)), id="read a bundle"
    ),
    pytest.param(lambda c, node, run, fab: c.GetRun(GetRunRequest(node=node, run_id=run)), id="read a run"),
    pytest.param(lambda c, node, run, fab: c.PullMessages(PullMessagesRequest(node=node)), id="read a site's messages"),
]


@pytest.mark.parametrize("call", FLEET_CALLS)
def test_nobody_without_a_registered_key_gets_past_the_door(link, run, nodes, fab_hash, tmp_path, write_node_key, call):
    victim = Node(node_id=nodes[1][1])
    for key in (None, write_node_key(tmp_path / "stranger")):
        with link.public(FleetHttpClient, key) as client:
            assert link.status(lambda client=client: call(client, victim, run, fab_hash)) == 401


@pytest.mark.parametrize("call", FLEET_CALLS)
def test_a_site_can_not_speak_for_another(link, run, nodes, fab_hash, call):
    key, victim = nodes[0][0], Node(node_id=nodes[1][1])
    with link.public(FleetHttpClient, key) as client:
        assert link.status(lambda: call(client, victim, run, fab_hash)) == 401


@pytest.mark.parametrize(("source", "reply_to"), [(1, ""), ("b", "m")])
def test_a_site_can_not_send_orders_or_answers_in_anothers_name(link, run, nodes, source, reply_to):
    (key, mine), (_, other) = nodes
    metadata = Metadata(
        run_id=run, src_node_id=other if source == "b" else source, dst_node_id=other, reply_to_message_id=reply_to
    )
    request = PushMessagesRequest(node=Node(node_id=mine), messages_list=[Message(metadata=metadata)])
    with link.public(FleetHttpClient, key) as client:
        assert link.status(lambda: client.PushMessages(request)) == 403


def test_a_sites_own_calls_are_answered(link, nodes):
    (key, mine), _ = nodes
    with link.public(FleetHttpClient, key) as client:
        assert list(client.PullMessages(PullMessagesRequest(node=Node(node_id=mine))).messages_list) == []


def test_a_body_beyond_the_limit_is_refused_and_the_server_goes_on(link):
    context = ssl.create_default_context(cadata=link.authority.decode())
    with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{link.listener.port}") as client:
        for path, limit in PUBLIC.items():
            with contextlib.suppress(httpx.WriteError):  # it hangs up before we are through
                assert client.post(path, content=b"x" * (limit + 1)).status_code == 413
        assert client.get("/health").status_code == 200


def test_while_the_public_listener_is_flooded_the_operator_is_answered(link):
    context = ssl.create_default_context(cadata=link.authority.decode())
    stop, statuses = threading.Event(), []

    def flood():
        with httpx.Client(verify=context, base_url=f"https://127.0.0.1:{link.listener.port}") as client:
            while not stop.is_set():
                statuses.append(client.post("/v1/fleet/pull-messages", content=b"x").status_code)

    threads = [threading.Thread(target=flood) for _ in range(4)]
    silent = [socket.create_connection(("127.0.0.1", link.listener.port)) for _ in range(50)]  # say nothing, in TLS
    for thread in threads:
        thread.start()
    try:
        begin = time.monotonic()
        with link.daemon.control() as control:
            control.runs()
        assert time.monotonic() - begin < 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for sock in silent:
            sock.close()
    assert set(statuses) == {401}


def test_on_loopback_nobody_starts_runs_or_lists_sites_without_the_operators_secret(link):
    with link.loopback(ControlHttpClient) as client:
        assert link.status(lambda: client.StartRun(StartRunRequest(fab=FAB))) == 401
        assert link.status(lambda: client.ListNodes(ListNodesRequest())) == 401


@pytest.mark.parametrize("secret", [None, b"wrong"])
def test_on_loopback_nobody_claims_a_task_without_the_executors_secret(link, run, secret):
    method = {"/flwr.proto.Runtime/AcquireTask"}
    signer = [SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=method)] if secret else []
    with link.loopback(RuntimeHttpClient, signer) as client:
        request = AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
        assert link.status(lambda: client.AcquireTask(request)) == 401


def test_secrets_and_state_are_the_owners_alone(link):
    home = link.daemon.superlink
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / EXECUTOR_SECRET).stat().st_mode & 0o777 == 0o600
    with sqlite3.connect(home / "superlink.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_address_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RunError, match=str(taken.getsockname()[1])):
        bind("127.0.0.1", taken.getsockname()[1])


# Canaries: if one of these fails, a new release of Flower changed what server/superlink.py stands on.

PRAGMAS = """
from server.superlink import wait_longer_for_locks
wait_longer_for_locks()
from flwr.supercore import sql_mixin
print(dict(sql_mixin.SQLITE_PRAGMAS)["busy_timeout"], dict(sql_mixin.SQLITE_PRAGMAS)["journal_mode"])
"""


def test_canary_flowers_database_takes_the_longer_wait():
    done = subprocess.run([sys.executable, "-c", PRAGMAS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["60000", "WAL"], "flwr.supercore.constant.SQLITE_PRAGMAS is no longer what is used"


def test_setting_the_wait_too_late_is_an_error():
    import flwr.supercore.sql_mixin  # noqa: F401

    with pytest.raises(RunError, match="before its pragmas"):
        wait_longer_for_locks()


def test_canary_the_settings_of_flowers_app_are_those_that_are_set():
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    names = {field.name for field in dataclasses.fields(SuperLinkLifespanConfig)}
    assert names == {
        *("control_address", "health_server_address", "host", "port", "insecure", "certificates"),
        *("superexec_auth_secret", "authn_plugin", "event_log_plugin", "fleet_event_log_plugin", "enable_event_log"),
        *("artifact_provider", "enable_supernode_auth", "fleet_api_type", "fleet_api_address", "simulation"),
        *("ssl_ca_certfile", "ssl_certfile", "ssl_keyfile", "database", "isolation", "runtime_dependency_install"),
    }, "SuperLinkLifespanConfig has other settings; look at each before setting it in make_app"
    assert list(inspect.signature(create_app).parameters) == ["config", "superlink_lifespan_class"]
    assert {"startup", "shutdown"} <= set(dir(SuperLinkLifespan))


def test_canary_the_fleet_routes_are_those_that_the_guard_knows():
    from flwr.superlink.routers.fleet.router import router

    found = {route.path for route in router.routes}
    assert found == {*PUBLIC, "/v1/fleet/register-node", "/v1/fleet/unregister-node"}, (
        "Flower's fleet API has other routes; decide for each whether hospitals may call it (server/listener.py)"
    )


def test_canary_uvicorns_protocol_has_what_ours_adds_to():
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    source = inspect.getsource(HttpToolsProtocol)
    for name in ("self.cycle", "self.client", "self.transport", "def on_response_complete", "def data_received"):
        assert name in source, f"uvicorn's protocol has no {name}; see server/connections.py"


def test_canary_a_chunk_of_an_array_fits_into_one_request():
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    assert PUBLIC["/v1/fleet/push-object"] > FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 100_000


def test_canary_the_executor_is_kept_to_server_apps_by_its_plugins_list():
    from flwr.supercore.superexec import run_superexec

    assert "plugin.supported_task_types" in inspect.getsource(run_superexec.run_superexec)
    assert run_superexec.AutoExecPlugin.__module__ == "flwr.supercore.superexec.plugin.base_exec_plugin"
