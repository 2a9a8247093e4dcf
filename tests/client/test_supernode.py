from __future__ import annotations

import inspect
import re
from types import SimpleNamespace

import httpx
import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode import fleet_http_connection, start_client_internal

from client import supernode
from client.supernode import NotingInterceptor
from common.pki import keys


class Book:
    def __init__(self):
        self.notes = []

    def note(self, problem):
        self.notes.append(problem)


@pytest.fixture
def call():
    """Send a request through the interceptor; what came of it, and what was noted."""
    key, book = keys.new_p384_key(), Book()
    interceptor = NotingInterceptor(key, key.public_key(), book)

    def send(answer):
        request = httpx.Request("POST", "https://ct.example")

        def answered(context):
            assert {"flwr-timestamp"} <= set(context.request.headers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return interceptor.intercept(SimpleNamespace(request=request), answered), book.notes

    send.notes = book.notes
    return send


@pytest.mark.parametrize(("status", "noted"), [(200, ""), (401, "not-accepted"), (500, "answer-500")])
def test_every_answer_is_noted_and_passed_on(call, status, noted):
    response, notes = call(httpx.Response(status))
    assert (response.status_code, notes) == (status, [noted])


def test_every_failure_is_noted_and_passed_on(call):
    with pytest.raises(httpx.ConnectError):
        call(httpx.ConnectError("x"))
    assert call.notes == ["unreachable"]


def test_a_disk_that_takes_no_more_does_not_end_the_node(call, monkeypatch, capsys):
    monkeypatch.setattr(Book, "note", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert call(httpx.Response(200))[0].status_code == 200
    assert "OSError" in capsys.readouterr().err


def test_flowers_node_is_started_with_flowers_own_arguments_and_our_interceptor(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(supernode, "flower_supernode", lambda: seen.append(list(supernode.sys.argv)))
    monkeypatch.setattr("sys.argv", ["x", str(tmp_path), "--port", "9101", "--isolation", "process"])
    monkeypatch.setattr(fleet_http_connection, "NodeAuthHttpInterceptor", fleet_http_connection.NodeAuthHttpInterceptor)
    supernode.main()
    assert seen == [["flower-supernode", "--port", "9101", "--isolation", "process"]]
    key = keys.new_p384_key()
    assert isinstance(fleet_http_connection.NodeAuthHttpInterceptor(key, key.public_key()), NotingInterceptor)


# Canaries: if one of these fails, a new release of Flower changed what client/supernode.py and the doctor stand on.


def test_canary_flower_signs_each_request_with_the_interceptor_that_is_replaced():
    source = inspect.getsource(fleet_http_connection.http_request_response)
    assert "NodeAuthHttpInterceptor(private_key, public_key)" in source


def test_canary_flowers_client_takes_its_proxy_from_the_environment_and_trusts_the_given_authority_alone():
    source = inspect.getsource(ProtobufClient)
    assert "httpx.Client(" in source
    assert "trust_env" not in source
    assert "proxy" not in source
    assert "verify.load_verify_locations(cadata=root_certificates" in source


def test_flowers_loop_uses_nothing_of_time_but_the_three_pauses_that_are_replaced():
    source = inspect.getsource(start_client_internal)
    assert re.findall(r"\btime\.[a-z_]+\(.*?\)", source) == ["time.sleep(3)", "time.sleep(0.5)", "time.sleep(0.5)"]


def test_a_node_asks_soon_after_work_and_as_seldom_as_flower_when_idle(monkeypatch):
    slept, now = [], [1000.0]
    monkeypatch.setattr(supernode, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=slept.append))
    pauses = supernode.Pauses()
    pauses.sleep(3)  # nothing was ever asked of it
    pauses.sleep(0.5)  # waits for the runner
    for idle in (0, 10, 1000):
        now[0] = 1000.0 + idle
        pauses.sleep(3)
    assert slept == [3, supernode.RUNNER_SECONDS, supernode.SHORTEST_IDLE, 1.0, 3]


def test_a_part_that_is_not_there_yet_is_asked_for_again_at_once(monkeypatch):
    monkeypatch.setattr(start_client_internal, "time", start_client_internal.time)  # put back afterwards
    monkeypatch.setattr(pull_objects, "__kwdefaults__", dict(pull_objects.__kwdefaults__))
    supernode.wait_less()
    assert isinstance(start_client_internal.time, supernode.Pauses)
    assert inspect.signature(pull_objects).parameters["initial_backoff"].default == supernode.FIRST_WAIT
    missing = iter([True, True, False])

    def pull(name):
        if next(missing):
            raise ObjectUnavailableError(name)
        return b"part"

    assert pull_objects(["a"], pull) == {"a": b"part"}
