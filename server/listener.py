"""What a request must be before Flower sees it: pure ASGI guards around the SuperLink's app.

Flower's open release serves everything on one port and does not ask operators who they are. So the app has
two listeners, each behind a guard of its own.

``PublicGuard``, for hospitals. A request passes only if, in this order:

1. it is HTTP, and its path and method are in ``PUBLIC``, character by character; all else is 404 or 405;
2. its body is no longer than the path's limit (413), announced or not, and arrives in time (408);
3. on a fleet path it carries a fresh signature by the key of a registered node (401), before its body is read;
4. a message that it pushes is a reply in its own name (403).

``OperatorGuard``, on loopback: what starts, stops and lists runs needs the operator's secret (401); what the
executor asks is authenticated by Flower itself.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from common.flower_env import CHUNK_BYTES

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KIB = 1 << 10
SMALL = 64 * KIB
TREE = 1024 * KIB  # a message without content, and the list of its objects
OBJECT = CHUNK_BYTES + TREE  # a chunk of an array
MOST_ON_LOOPBACK = 64 << 20  # far above a chunk, or the list of the objects of a hundred messages
BODY_SECONDS = 120.0
OPERATOR_HEADER = "fedct-operator"
OPEN_ON_LOOPBACK = "/v1/runtime/"

# What a SuperNode with a key calls (flwr.supernode.fleet_http_connection), and the longest body of each.
# Nodes are registered by the coordinator, so register-node and unregister-node are left out.
PUBLIC: Mapping[str, int] = {
    "/v1/fleet/activate-node": SMALL,
    "/v1/fleet/deactivate-node": SMALL,
    "/v1/fleet/send-node-heartbeat": SMALL,
    "/v1/fleet/pull-messages": SMALL,
    "/v1/fleet/push-messages": TREE,
    "/v1/fleet/get-run": SMALL,
    "/v1/fleet/get-fab": SMALL,
    "/v1/fleet/push-object": OBJECT,
    "/v1/fleet/pull-object": SMALL,
    "/v1/fleet/confirm-message-received": SMALL,
}
HEALTH = "/health"
PUSH = "/v1/fleet/push-messages"


class PublicGuard:
    """Offers hospitals ``PUBLIC`` and ``/health`` of ``app``.

    ``admits``: whether the headers (lower-case names) are signed by a registered node; called in a thread.
    ``replies``: whether the body of a push of messages holds replies in the pushing node's name only.
    """

    def __init__(
        self,
        app: App,
        admits: Callable[[Mapping[str, str]], bool],
        replies: Callable[[bytes], bool],
        *,
        body_seconds: float = BODY_SECONDS,
    ) -> None:
        self._app, self._admits, self._replies, self._seconds = app, admits, replies, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # a websocket is closed by the server when nobody accepts it
        path, method = str(scope["path"]), str(scope["method"])
        if path == HEALTH:
            await (self._app(scope, receive, send) if method in ("GET", "HEAD") else refuse(send, 405))
            return
        if path not in PUBLIC:
            await refuse(send, 404)
            return
        if method != "POST":
            await refuse(send, 405)
            return
        headers = headers_of(scope)
        limit = PUBLIC[path]
        if _announced(headers) > limit:
            await refuse(send, 413)
            return
        if not await asyncio.to_thread(self._admits, headers):
            await refuse(send, 401)
            return
        await self._forward(scope, receive, send, limit)

    async def _forward(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        try:
            body = await asyncio.wait_for(_read(receive, limit), self._seconds)
        except TimeoutError:
            await refuse(send, 408)
            return
        if body is None:
            await refuse(send, 413)
            return
        if scope["path"] == PUSH and not self._replies(body):
            await refuse(send, 403)
            return
        await self._app(scope, _replayed(body, receive), send)


class OperatorGuard:
    """Asks for the operator's secret on every path of ``app`` but the executor's and ``/health``.

    A body is read here and handed on in one part: each part costs Flower's five layers of middleware a task of its own.
    """

    def __init__(self, app: App, secret: str) -> None:
        self._app, self._secret = app, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = str(scope["path"])
            given = headers_of(scope).get(OPERATOR_HEADER, "")
            known = hmac.compare_digest(given.encode(), self._secret.encode())
            if not (known or path == HEALTH or path.startswith(OPEN_ON_LOOPBACK)):
                await refuse(send, 401)
                return
            body = await _read(receive, MOST_ON_LOOPBACK)
            if body is None:
                await refuse(send, 413)
                return
            receive = _replayed(body, receive)
        await self._app(scope, receive, send)


def headers_of(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name; one that is given twice counts as not given."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return {name: values[0] for name, values in found.items() if len(values) == 1}


async def refuse(send: Send, status: int) -> None:
    """Answer with a status and nothing else, and hang up: the body was perhaps not read."""
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _announced(headers: Mapping[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 1 << 62


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` in one part, and then what ``receive`` gives."""
    parts: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Event:
        return parts.pop() if parts else await receive()

    return replay


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body, or None when it is longer than ``limit`` or the client went away."""
    parts, length = [], 0
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        parts.append(event.get("body", b""))
        length += len(parts[-1])
        if length > limit:
            return None
        if not event.get("more_body", False):
            return b"".join(parts)
