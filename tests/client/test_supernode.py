from __future__ import annotations

import inspect
from types import SimpleNamespace

import httpx
import pytest
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode import fleet_http_connection

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
