"""The runner as a process, against Flower's own SuperNode app: no coordinator, real messages."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import uvicorn
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import message_to_proto
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.start_client_internal import _insert_message

from client.audit_log import AuditLog
from client.ingest.build import ingest
from client.ledger import Ledger
from client.site import load_site
from common import messages
from common.flower_env import flower_environment, free_port
from common.messages import Hello, Reply, Request
from common.models.weights import initial_model
from server.bundle import bundle_files
from server.letters import Letters

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")]

SECRET = b"a secret of the node and its runner"
RUN = 77
PLANTED = "DOE^JANE 1970-01-01"
MARK = "code-of-the-bundle-ran"


class Node:
    """Flower's SuperNode without its connection to a coordinator."""

    def __init__(self) -> None:
        self.factory = NodeStateFactory(ObjectStoreFactory())
        self.state = self.factory.state()
        self.state.set_node_id(5)
        self.port = free_port()
        self._server = uvicorn.Server(
            uvicorn.Config(create_app(self.factory, SECRET), port=self.port, log_level="error", ws="none")
        )
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.05)

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def give(self, kind, content, files, *, task="flwr-clientapp", tamper=b"", arrives=True) -> int:
        """Hand a message and its bundle to the node, as Flower's own loop does; the number of the task.

        ``arrives``: not the first part alone, as when its coordinator dies while it sends the message.
        """
        content_, _ = build_fab_from_files(files)
        digest = hashlib.sha256(content_).hexdigest()
        run = Run.create_empty(RUN)
        run.fab_hash = digest
        self.state.store_run(run)
        # Flower's store would refuse a bundle under another digest; a hostile node has a store of its own
        self.state.fab_store[digest] = Fab(digest, content_ + tamper, {})
        context = Context(RUN, 5, {"site": "/somewhere/else"}, RecordDict(), {})
        self.state.set_run_series_context(run.series_id, context)
        number = self.state.create_task(task_type=task, run_id=RUN, fab_hash=digest)
        message = Message(content, 5, kind)
        message.metadata.__dict__.update(_run_id=RUN, _src_node_id=1)
        if arrives:
            _insert_message(message, self.state, self.state.object_store)
        else:
            message.metadata.__dict__["_message_id"] = message.object_id
            self.state.object_store.preregister(RUN, get_object_tree(message))
            self.state.store_message(message)
        return number

    def status(self, task: int) -> str:
        return self.state.get_tasks(task_ids=[task])[0].status.status

    def reply(self, seconds: float = 300) -> tuple[Message, bytes]:
        """What goes to the coordinator next: the message, and every byte of it."""
        end = time.monotonic() + seconds
        while not (found := self.state.get_messages_legacy(is_reply=True)):
            assert time.monotonic() < end
            time.sleep(0.02)
        (message,) = found
        store = self.state.object_store
        tree = store.get_object_tree(message.metadata.message_id)
        contents = {}
        for part in iterate_object_tree(tree):
            while not (content := store.get(part.object_id)):
                assert time.monotonic() < end
                time.sleep(0.02)
            contents[part.object_id] = content
        wire = message_to_proto(message).SerializeToString() + b"".join(contents.values())
        whole = inflate_object_from_contents(message.metadata.message_id, contents)
        return whole, wire

    def ask(self, kind, content, files, seconds: float = 300, **options) -> tuple[Message, bytes]:
        self.give(kind, content, files, **options)
        return self.reply(seconds)


@pytest.fixture(scope="module")
def study(small_study):
    return small_study()


@pytest.fixture(scope="module")
def files(study):
    return bundle_files(study, 0, simulated=False, run="r")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runner")


@pytest.fixture(scope="module")
def site(folder, write_sites, study):
    found = load_site(write_sites(folder / "sites", 1) / "site-1")
    ingest(found, study)
    found.approve(study)
    return found


@pytest.fixture(scope="module")
def node():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_run_id", "_node_id", "_task_id"):
            patch.setattr(TaskIdentity, name, 1)
        started = Node()
        yield started
        started.close()


def runner_command(site, port, secret):
    """What starts the runner of ``site`` beside a node on ``port``."""
    words = ["-m", "client.runner", site.folder, "--address", f"127.0.0.1:{port}", "--secret", secret]
    return [sys.executable, "-P", *map(str, words)]


@pytest.fixture(scope="module")
def runner(node, site, folder):
    """The runner of the site, at the node; one for all tests, since torch takes seconds to come."""
    tmp_path = folder
    (tmp_path / "flwr").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    environment = flower_environment(tmp_path) | {"OMP_NUM_THREADS": "1", MARK: str(tmp_path / MARK)}
    with (tmp_path / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            runner_command(site, node.port, tmp_path / "secret"),
            cwd=tmp_path / "empty",
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(20)
        _, alive = psutil.wait_procs(family, timeout=10)
        for left in alive:
            left.kill()
    assert alive == []
    assert process.returncode == 0


def request(study) -> RecordDict:
    return RecordDict(
        {messages.CONFIG: ConfigRecord(Request(study=study.canonical_json(), round=1, seed=0).to_config())}
    )


def training(study) -> RecordDict:
    letters = Letters(study, initial_model(study, 0), 0)
    ((_, content),) = letters.with_model(1, {1: "site-1"}, None)
    return content


def hello_of(message: Message) -> Hello:
    return Hello.from_config(dict(message.content[messages.CONFIG]))


def reply_of(message: Message) -> Reply:
    return Reply.from_config(dict(message.content[messages.CONFIG]))


def test_the_installed_app_answers_for_the_runners_own_site(node, runner, study, files):
    hello = hello_of(node.ask("query", request(study), files)[0])
    assert (hello.site, hello.ready, hello.code) == ("site-1", True, "")
    reply = reply_of(node.ask("train", training(study), files)[0])
    assert (reply.status, reply.code) == ("ok", "")


def test_a_task_starts_in_well_under_a_second_once_torch_is_there(node, runner, study, files):
    node.ask("query", request(study), files)
    seconds = []
    for _ in range(5):
        number = node.give("query", request(study), files)
        while node.status(number) == "pending":
            time.sleep(0.005)
        claimed = time.monotonic()
        while node.status(number) == "starting":
            time.sleep(0.005)
        seconds.append(time.monotonic() - claimed)
        node.reply()
    assert min(seconds) < 0.5, seconds


CODE = f"import os, pathlib; pathlib.Path(os.environ['{MARK}']).touch(); app = None"


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        pytest.param(
            {"client/__init__.py": CODE, "client/app.py": CODE}, {}, "bundle-holds-code", id="shadows the app"
        ),
        pytest.param({"sitecustomize.py": CODE}, {}, "bundle-holds-code", id="code that Python starts by itself"),
        pytest.param({}, {"tamper": b"x"}, "bundle-digest", id="other content than the run names"),
        pytest.param({"component": "evil:app"}, {}, "bundle-component", id="another component"),
        pytest.param({"study": "0" * 64}, {}, "policy-1-not-approved", id="a study that was not approved"),
    ],
)
@pytest.mark.parametrize("kind", ["query", "train"])
def test_a_bundle_that_may_not_run_is_refused_with_a_code_and_on_the_audit_log(
    node, runner, site, study, files, folder, change, options, code, kind
):
    config = files["pyproject.toml"].decode()
    changed = dict(change)
    config = config.replace("client.app:app", changed.pop("component", "client.app:app"))
    config = config.replace(study.digest, changed.pop("study", study.digest))
    if changed:
        config = config.replace('fab-include = ["/README.md", "/LICENSE"]\n', "")
    hostile = {**files, "pyproject.toml": config.encode(), **{name: text.encode() for name, text in changed.items()}}
    before = Ledger(site.ledger_file).entries()
    message, _ = node.ask(kind, training(study), hostile, **options)
    if kind == "query":
        assert (hello_of(message).ready, hello_of(message).code) == (False, code)
    else:
        assert (reply_of(message).status, reply_of(message).code) == ("refused", code)
    assert AuditLog(site.audit_file).read()[-1].details["code"] == code
    assert not (folder / MARK).exists()
    assert not list((folder / "flwr").rglob("*.py"))
    assert Ledger(site.ledger_file).entries() == before


@pytest.mark.parametrize("task", ["flwr-agentapp", "flwr-serverapp", "flwr-model", "flwr-connector", "flwr-simulation"])
def test_a_task_for_another_component_is_never_claimed(node, runner, study, files, task):
    other = node.state.create_task(task_type=task, run_id=RUN, fab_hash="0" * 64)
    hello_of(node.ask("query", request(study), files)[0])
    assert node.status(other) == "pending"


def test_no_text_of_an_exception_is_on_the_wire_or_on_a_log(node, runner, site, study, files, folder):
    path = site.folder / "site.toml"
    sound = path.read_text()
    try:
        path.write_text(sound.replace('cohort = "default"', f'cohort = "{PLANTED}"'))
        for kind in ("query", "train", "evaluate"):
            message, wire = node.ask(kind, training(study), files)
            answered = hello_of(message) if kind == "query" else reply_of(message)
            assert (answered.site, answered.code) == ("unknown", "site-invalid")
            assert PLANTED.encode() not in wire
            assert b"DOE" not in wire
    finally:
        path.write_text(sound)
    logs = [folder / "runner.log", *(file for file in site.runner_dir.iterdir() if file.is_file())]
    assert '"site-invalid"' in (site.runner_dir / "runner.log").read_text()
    assert not [log for log in logs if "DOE" in log.read_text()]


def test_a_message_that_the_app_does_not_know_is_an_error_with_a_constant_text(node, runner, study, files):
    message, wire = node.ask("query.planted", request(study), files)
    assert message.error.reason == "internal-error"
    assert b"Traceback" not in wire


def test_a_task_that_the_node_no_longer_knows_is_ended_and_the_runner_is_free_for_the_next(
    node, runner, site, small_study, study, files
):
    endless = small_study(name="endless", privacy={"unit": "off"}, training={"local_steps": 100_000})
    site.approve(endless)
    store = node.state.object_store
    before = len(store)
    task = node.give("train", training(endless), bundle_files(endless, 0, simulated=False, run="r"))
    begin = time.monotonic()
    while node.status(task) != "running" or len(store) > before:  # until all of the message was fetched
        assert time.monotonic() - begin < 60
        time.sleep(0.05)
    with node.state.lock_task_store:  # as a node that was killed and started again
        for known in (node.state.task_store, node.state.task_token_store, node.state.task_token_to_task_id):
            known.clear()
    node.state.delete_messages()
    hello = hello_of(node.ask("query", request(study), files, seconds=120)[0])  # 100,000 steps take far longer
    assert hello.ready


@pytest.mark.failure(
    "a coordinator killed while it sends a message",
    seen="nothing",
    ends="the site is free for the next message",
    ledgers="nothing",
)
def test_a_message_that_never_arrives_whole_does_not_keep_the_site_from_the_next_one(node, runner, study, files):
    node.ask("query", request(study), files, seconds=300)  # the runner is there
    task = node.give("train", training(study), files, arrives=False)
    begin = time.monotonic()
    while node.status(task) != "running":
        assert time.monotonic() - begin < 300
        time.sleep(0.05)
    assert hello_of(node.ask("query", request(study), files, seconds=300)[0]).ready


def test_the_process_that_tasks_are_forked_from_has_torch_and_one_thread(node, runner, study, files):
    node.ask("query", request(study), files)
    (server,) = [c for c in psutil.Process(runner.pid).children() if "forkserver" in " ".join(c.cmdline())]
    assert server.num_threads() == 1
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "libtorch_cpu" in maps
    assert "libtorch_cpu" not in Path(f"/proc/{runner.pid}/maps").read_text()


def test_the_runner_waits_for_a_node_that_is_not_there_yet_and_ends_when_told(make_sites, tmp_path):
    site = load_site(make_sites(1) / "site-1")  # a site has one runner at a time
    (tmp_path / "secret").write_bytes(SECRET)
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            runner_command(site, free_port(), tmp_path / "secret"), env=dict(os.environ), stdout=output, stderr=output
        ) as process,
    ):
        said = site.runner_dir / "runner.log"
        while not said.exists() or '"node-absent"' not in said.read_text():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
