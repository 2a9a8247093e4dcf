from __future__ import annotations

import inspect
import json
import threading

import pytest

from client import node
from client.node import serve, services
from client.site import AUTHORITY, NODE_KEY, CoordinatorSettings, Site, SiteConfig, create_site
from common.errors import SiteError
from common.flower_env import TRAINING
from common.supervisor import Event


@pytest.fixture
def joined(tmp_path):
    """A site that joined, and its IT put the node's folder where it is by default."""
    settings = CoordinatorSettings(address="hospitals.example:8443", study_key="a" * 64, invitation="b" * 64)
    made = create_site(tmp_path / "site", SiteConfig(name="site-1", coordinator=settings))
    made.node_dir.mkdir(mode=0o700)
    for name in (AUTHORITY, NODE_KEY):
        (made.node_dir / name).write_text("")
    return made


def option(command: tuple[str, ...], name: str) -> str:
    return command[command.index(name) + 1]


def test_the_node_gets_the_sites_name_and_key_and_nothing_else_of_the_site(joined):
    found = services(joined, 4242)["node"]
    assert option(found.command, "--node-config") == 'site="site-1"'
    inside = [part for part in found.command if str(joined.folder) in part]
    node_folder = joined.folder / "node"
    assert inside == [str(node_folder), *(str(node_folder / name) for name in (AUTHORITY, NODE_KEY, "runner.secret"))]
    assert "labels" not in " ".join(found.command)


def test_the_node_calls_out_over_tls_and_listens_on_loopback_only(joined):
    found = services(joined, 4242)["node"]
    assert option(found.command, "--superlink") == "hospitals.example:8443"
    assert option(found.command, "--root-certificates") == str(joined.node_dir / AUTHORITY)
    assert option(found.command, "--auth-supernode-private-key") == str(joined.node_dir / NODE_KEY)
    assert option(found.command, "--host") == "127.0.0.1"
    assert option(found.command, "--isolation") == "process"
    assert "--insecure" not in found.command


def test_the_runner_knows_the_loopback_address_and_no_other(joined):
    found = services(joined, 4242)["runner"]
    assert option(found.command, "--address") == "127.0.0.1:4242"
    assert "hospitals.example" not in " ".join(found.command)
    assert str(joined.node_dir / NODE_KEY) not in found.command


def test_neither_runs_in_a_folder_from_which_python_could_import(joined):
    for part, service in services(joined, 4242).items():
        assert service.folder == joined.folder / part / "empty"
        assert service.environment["FLWR_HOME"] == str(joined.folder / part / "flwr")
        assert service.command[1:3] == ("-P", "-m")


def test_only_the_runner_is_started_as_a_process_that_trains_and_the_machines_own_settings_win(joined, monkeypatch):
    for name in TRAINING:
        monkeypatch.delenv(name, raising=False)
    found = services(joined, 4242)
    assert TRAINING.items() <= found["runner"].environment.items()
    assert not TRAINING.keys() & found["node"].environment.keys()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert services(joined, 4242)["runner"].environment["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize("missing", [AUTHORITY, NODE_KEY])
def test_a_site_that_lost_what_it_joined_with_does_not_start(joined, missing):
    (joined.node_dir / missing).unlink()
    with pytest.raises(SiteError, match=missing):
        serve(joined, threading.Event(), print)
    assert len(list(joined.node_dir.iterdir())) == 1


def test_a_node_folder_elsewhere_is_where_the_node_works(joined, tmp_path):
    elsewhere = joined.config.coordinator.model_copy(update={"node": str(tmp_path / "elsewhere")})
    moved = Site(joined.folder, joined.config.model_copy(update={"coordinator": elsewhere}))
    node_, runner = services(moved, 4242).values()
    assert option(node_.command, "--auth-supernode-private-key") == str(tmp_path / "elsewhere" / NODE_KEY)
    assert (node_.log.parent, runner.log.parent) == (tmp_path / "elsewhere", joined.folder / "runner")
    assert str(joined.folder) not in " ".join(node_.command)


def test_the_secret_is_made_once_and_is_the_owners_alone(joined, monkeypatch):
    seen = []
    monkeypatch.setattr(
        node, "supervise", lambda *_: seen.append((joined.folder / "node" / "runner.secret").read_bytes())
    )
    for _ in range(2):
        serve(joined, threading.Event(), print)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 64
    assert (joined.folder / "node" / "runner.secret").stat().st_mode & 0o777 == 0o600
    assert (joined.folder / "node").stat().st_mode & 0o777 == 0o700


@pytest.fixture
def supervised(monkeypatch):
    """The services that would run."""
    seen = []
    monkeypatch.setattr(node, "supervise", lambda services, *_: seen.extend(services))
    return seen


def with_port(joined: Site, port: int = 9101) -> Site:
    settings = joined.config.service.model_copy(update={"port": port})
    return Site(joined.folder, joined.config.model_copy(update={"service": settings}))


def test_each_half_runs_alone_and_they_meet_on_the_sites_port(joined, supervised):
    for part in ("node", "runner"):
        serve(with_port(joined), threading.Event(), print, [part])
    assert [service.name for service in supervised] == ["node", "runner"]
    assert option(supervised[0].command, "--port") == "9101"
    assert option(supervised[1].command, "--address") == "127.0.0.1:9101"


@pytest.mark.parametrize("part", ["node", "runner"])
def test_a_half_that_could_not_find_the_other_is_not_started(joined, supervised, part):
    with pytest.raises(SiteError, match=r"service\.port = 0"):
        serve(joined, threading.Event(), print, [part])
    assert supervised == []


def test_the_runners_half_needs_nothing_of_the_node_but_the_secret(joined, supervised):
    with pytest.raises(SiteError, match=r"runner\.secret"):
        serve(with_port(joined), threading.Event(), print, ["runner"])
    serve(with_port(joined), threading.Event(), print, ["node"])
    for name in (AUTHORITY, NODE_KEY):
        (joined.node_dir / name).unlink()
    serve(with_port(joined), threading.Event(), print, ["runner"])
    assert [service.name for service in supervised] == ["node", "runner"]


def test_the_nodes_half_makes_nothing_beside_its_own_folder(joined, supervised):
    before = {path.name for path in joined.folder.iterdir()}
    serve(with_port(joined), threading.Event(), print, ["node"])
    assert {path.name for path in joined.folder.iterdir()} == before


@pytest.mark.parametrize(("folder", "secret"), [(0o700, 0o600), (0o750, 0o640)])
def test_the_secret_is_for_the_group_only_where_it_was_let_into_the_folder(joined, supervised, folder, secret):
    serve(with_port(joined), threading.Event(), print, ["node"])
    joined.node_dir.chmod(folder)
    serve(with_port(joined), threading.Event(), print, ["node"])
    assert (joined.node_dir / "runner.secret").stat().st_mode & 0o777 == secret


def test_the_nodes_proxy_is_the_sites_and_the_runner_has_none_of_it(joined):
    settings = joined.config.service.model_copy(update={"proxy": "http://proxy.example:3128"})
    site = Site(joined.folder, joined.config.model_copy(update={"service": settings}))
    found = services(site, 4242)
    assert found["node"].environment["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert "127.0.0.1" in found["node"].environment["NO_PROXY"]
    assert "http://proxy.example:3128" not in found["runner"].environment.values()


def test_what_befalls_a_service_is_on_its_own_log_in_json(joined, monkeypatch):
    events = [Event("node", "started", 7), Event("runner", "ended", 8, -9, wait=1.0)]
    monkeypatch.setattr(node, "supervise", lambda _, __, note: [note(event) for event in events])
    said = []
    serve(joined, threading.Event(), said.append)
    lines = [json.loads((home / "serve.log").read_text()) for home in (joined.node_dir, joined.runner_dir)]
    assert [(line["event"], line["service"], line["process"], line["exit"]) for line in lines] == [
        ("started", "node", 7, None),
        ("ended", "runner", 8, -9),
    ]
    assert lines[1]["level"] == "warning"
    assert said == [str(event) for event in events]


# Canaries: if one of these fails, a new release of Flower changed what client/task.py and client/runner.py stand on.


def test_canary_the_functions_of_flowers_client_process_are_those_that_are_called():
    from flwr.supernode.runtime import run_clientapp as flower

    expected = {
        "pull_task_input": ["client"],
        "push_message": ["client", "message", "context"],
        "push_task_output": ["client", "context", "sub_status", "details"],
    }
    for name, parameters in expected.items():
        assert list(inspect.signature(getattr(flower, name)).parameters) == parameters, f"run_clientapp.{name} changed"


def test_canary_flowers_own_client_process_still_does_what_ours_does_in_the_same_order():
    from flwr.supernode.runtime import run_clientapp as flower

    source = inspect.getsource(flower.run_clientapp)
    steps = ["heartbeat_sender.start()", "pull_task_input(client)", "client_app(message=", "push_message(client"]
    places = [source.find(step) for step in steps]
    assert -1 not in places
    assert places == sorted(places), "run_clientapp works in another order; compare client/task.py"


def test_canary_only_the_claim_of_a_task_is_signed_with_the_secret():
    from flwr.supercore.superexec import run_superexec

    from client.runner import ACQUIRE

    assert {ACQUIRE} == run_superexec._SUPEREXEC_AUTH_METHODS


def test_canary_the_task_types_are_those_that_were_judged():
    from flwr.supercore.constant import TaskType

    from client.bundle import CLIENT_TASK

    assert TaskType.CLIENT_APP == CLIENT_TASK
    others = {"flwr-serverapp", "flwr-simulation", "flwr-agentapp", "flwr-model", "flwr-connector"}
    assert set(TaskType) - {CLIENT_TASK} == others, "Flower has other kinds of task; the runner claims none of them"
