from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.listener import OPERATOR_HEADER, PUBLIC, PUSH, OperatorGuard, PublicGuard


class Echo:
    """An app that takes note of what reaches it."""

    def __init__(self) -> None:
        self.reached: list[tuple[str, str, bytes]] = []

    async def __call__(self, scope, receive, send) -> None:
        body = (await receive())["body"] if scope["method"] == "POST" else b""
        self.reached.append((scope["method"], scope["path"], body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def call(guard, path, method="POST", headers=(), parts=(b"",), kind="http", delay=0.0) -> int | None:
    """The status that the guard answers, None for no answer."""
    events = [{"type": "http.request", "body": p, "more_body": i + 1 < len(parts)} for i, p in enumerate(parts)]
    sent = []

    async def receive():
        await asyncio.sleep(delay)
        return events.pop(0) if events else {"type": "http.disconnect"}

    async def send(event):
        sent.append(event)

    raw = [(name.encode(), value.encode()) for name, value in headers]
    asyncio.run(guard({"type": kind, "path": path, "method": method, "headers": raw}, receive, send))
    return sent[0]["status"] if sent else None


def public(app, *, admits=True, replies=True, **options) -> PublicGuard:
    return PublicGuard(app, lambda _: admits, lambda _: replies, **options)


@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_what_a_signed_node_calls_reaches_flower_with_its_body(path):
    app = Echo()
    assert call(public(app), path, parts=(b"ab", b"c")) == 200
    assert app.reached == [("POST", path, b"abc")]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/v1/control/start-run", "POST", 404),
        ("/v1/control/list-nodes", "POST", 404),
        ("/v1/runtime/acquire-task", "POST", 404),
        ("/v1/runtime/pull-task-input", "POST", 404),
        ("/v1/fleet/register-node", "POST", 404),
        ("/v1/fleet/unregister-node", "POST", 404),
        ("/v1/fleet/../control/start-run", "POST", 404),
        ("/v1/fleet//pull-messages", "POST", 404),
        ("/v1/fleet/pull-messages/", "POST", 404),
        ("/V1/FLEET/PULL-MESSAGES", "POST", 404),
        ("//v1/control/start-run", "POST", 404),
        ("/docs", "GET", 404),
        ("/openapi.json", "GET", 404),
        ("/", "GET", 404),
        ("/health", "POST", 405),
        ("/v1/fleet/pull-messages", "GET", 405),
        ("/v1/fleet/pull-messages", "OPTIONS", 405),
    ],
)
def test_nothing_else_reaches_flower(path, method, status):
    app = Echo()
    assert call(public(app), path, method) == status
    assert app.reached == []


@given(st.text(max_size=60))
def test_no_path_but_those_named_reaches_flower(path):
    app = Echo()
    call(public(app), path)
    assert [reached for _, reached, _ in app.reached] == ([path] if path in PUBLIC else [])


def test_health_is_open_to_all():
    assert call(public(Echo(), admits=False), "/health", "GET") == 200


def test_a_request_without_a_registered_nodes_signature_is_refused_before_its_body_is_read():
    app = Echo()

    def never(_):
        raise AssertionError

    guard = PublicGuard(app, lambda _: False, never)
    assert call(guard, PUSH, parts=(b"x",)) == 401
    assert app.reached == []


def test_a_push_that_is_no_reply_in_the_nodes_own_name_is_refused():
    app = Echo()
    assert call(public(app, replies=False), PUSH) == 403
    assert app.reached == []


@pytest.mark.parametrize("length", ["65537", "99999999999999999999", "-1", "0x10", "", "1e3", "٣"])
def test_a_body_announced_as_too_long_or_not_in_digits_is_refused(length):
    app = Echo()
    guard = public(app)
    sent = []

    async def send(event):
        sent.append(event["type"])

    raw = [(b"content-length", length.encode("latin-1", "replace"))]
    scope = {"type": "http", "path": "/v1/fleet/pull-messages", "method": "POST", "headers": raw}

    async def receive():
        raise AssertionError

    asyncio.run(guard(scope, receive, send))
    assert sent
    assert app.reached == []


def test_a_body_that_is_longer_than_announced_is_refused_when_the_limit_is_passed():
    app = Echo()
    assert (
        call(public(app), "/v1/fleet/pull-messages", headers=[("content-length", "1")], parts=[b"x" * 40000] * 3) == 413
    )
    assert app.reached == []


def test_a_body_that_does_not_arrive_in_time_is_given_up():
    app = Echo()
    assert call(public(app, body_seconds=0.01), "/v1/fleet/pull-messages", parts=(b"x",) * 9, delay=0.005) == 408
    assert app.reached == []


def test_a_client_that_goes_away_leaves_nothing_behind():
    app = Echo()
    call(public(app), "/v1/fleet/pull-messages", parts=())
    assert app.reached == []


def test_websockets_are_not_answered():
    app = Echo()
    assert call(public(app), "/v1/fleet/pull-messages", kind="websocket") is None
    assert app.reached == []


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/v1/control/start-run", [], 401),
        ("/v1/control/start-run", [(OPERATOR_HEADER, "wrong")], 401),
        ("/v1/control/start-run", [(OPERATOR_HEADER, "secret"), (OPERATOR_HEADER, "secret")], 401),
        ("/v1/control/start-run", [(OPERATOR_HEADER, "secret")], 200),
        ("/v1/fleet/pull-messages", [], 401),
        ("/docs", [], 401),
        ("/v1/runtime/../control/start-run", [], 200),  # Flower does not resolve dots; it knows no such path
        ("/v1/runtime/acquire-task", [], 200),
        ("/health", [], 200),
    ],
)
def test_on_loopback_operators_need_the_secret_and_the_executor_has_flowers_own(path, headers, status):
    assert call(OperatorGuard(Echo(), "secret"), path, headers=headers) == status
