"""The gate that every request to a page passes, before its route is looked up.

In this order; the first that fails ends it:

1. the Host header names this page: a name that an attacker's DNS points at this machine does not (DNS rebinding). The
   port may be another, so that the page can be reached through a tunnel;
2. a request that changes something comes from this page: its Origin header is this page's own, and there is one;
3. its body has a stated length of at most ``MOST_BYTES``;
4. somebody is logged in, unless the path is one of ``OPEN``;
5. (``authorise``, once the route is known) the person's role allows the route, and a request that changes something
   carries the session's CSRF token. A route that changes something and names no role is refused.

Each request that changes something, or that a handler calls an action, is told to the audit, refused ones included.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.web.accounts import Role, allows
from common.web.sessions import Session

MOST_BYTES = 4 << 20
OPEN = ("/login", "/enter", "/static/")
SAFE = frozenset({"GET", "HEAD"})
CSRF_HEADER, CSRF_FIELD = "x-csrf-token", "csrf"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # under no-referrer browsers send no Origin with a form
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
F = TypeVar("F", bound=Callable[..., object])
logger = logging.getLogger("fedct.web")


@dataclass(frozen=True)
class Action:
    """What somebody did or tried. ``user``: "" if nobody was logged in. ``what``: method and path. ``note``: details."""

    time: datetime
    user: str
    role: str
    address: str
    what: str
    status: int
    note: str = ""


Audit = Callable[[Action], None]


def needs(role: Role) -> Callable[[F], F]:
    """Mark a route's function with the least role that may call it."""

    def mark(function: F) -> F:
        function.needed_role = role  # type: ignore[attr-defined]
        return function

    return mark


class Gate:
    """Checks 1 to 4, security headers and the audit, around an ASGI application.

    ``hosts``: what the Host header may name. ``find``: the session of a request, None without one. ``failed``: the
    answer to an unexpected exception.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: tuple[str, ...],
        find: Callable[[HTTPConnection], Session | None],
        failed: Callable[[Request, Exception], Response],
        secure: bool,
        audit: Audit,
    ) -> None:
        self._app, self._hosts, self._find, self._failed, self._audit = app, hosts, find, failed, audit
        self._headers = HEADERS | ({"strict-transport-security": "max-age=31536000"} if secure else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websocket
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name.lower() for name, _ in message["headers"]}
                extra = [(name.encode(), text.encode()) for name, text in self._headers.items()]
                message["headers"] = [*message["headers"], *(one for one in extra if one[0] not in given)]
            await send(message)

        state = scope.setdefault("state", {})
        try:
            await self._answer(scope, receive, sending)
        except Exception as error:
            if status:  # it broke off in the middle: nothing more can be said
                raise
            await self._failed(Request(scope, receive), error)(scope, receive, sending)
        finally:
            if scope["method"] not in SAFE or state.get("action"):
                self._tell(scope, state, status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        scope["state"]["session"] = None
        refusal = self._refusal(scope, connection.headers)
        if refusal is None:
            scope["state"]["session"] = session = await run_in_threadpool(self._find, connection)
            if session is None and not any(_below(scope["path"], path) for path in OPEN):
                refusal = _log_in(scope, connection.headers)
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """What checks 1 to 3 answer instead of passing on; None to pass on."""
        host = headers.get("host", "")
        if re.sub(r":\d+$", "", host).strip("[]").lower() not in self._hosts:
            return _plain(400, "This page has another name.")
        if scope["method"] in SAFE:
            return None
        if headers.get("origin") != f"{scope['scheme']}://{host}":
            return _plain(403, "This request did not come from this page.")
        length = headers.get("content-length", "" if "transfer-encoding" in headers else "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return _plain(413, f"At most {MOST_BYTES >> 20} MB can be sent.")
        return None

    def _tell(self, scope: Scope, state: Mapping[str, Any], status: int) -> None:
        session: Session | None = state.get("entered") or state.get("session")
        address = scope["client"][0] if scope.get("client") else ""
        what = f"{scope['method']} {scope['path']}"[:500]
        user, role = (session.user, session.role) if session else ("", "")
        note = str(state.get("action", ""))[:500]
        try:
            self._audit(Action(datetime.now(UTC), user, role, address, what, status, note))
        except OSError:
            logger.exception("the audit of an action could not be written")


async def authorise(request: Request) -> None:
    """Check 5, as a dependency of the whole application."""
    function = request.scope["endpoint"]
    session: Session | None = request.state.session
    needed: Role | None = getattr(function, "needed_role", None)
    if request.method not in SAFE and session is not None:
        if not hmac.compare_digest((await _token(request)).encode(), session.csrf.encode()):
            raise HTTPException(403, "csrf")
        if needed is None and request.url.path not in OPEN:
            raise HTTPException(403, "role")
    if needed is not None and (session is None or not allows(session.role, needed)):
        raise HTTPException(403, "role")


async def _token(request: Request) -> str:
    """The CSRF token that a request carries, in a header or a form field; "" if none."""
    if token := request.headers.get(CSRF_HEADER):
        return token
    with contextlib.suppress(HTTPException, ValueError, KeyError):
        token = (await request.form()).get(CSRF_FIELD)  # type: ignore[assignment] # a file is no token
    return token if isinstance(token, str) else ""


def _below(path: str, open_path: str) -> bool:
    return path.startswith(open_path) if open_path.endswith("/") else path == open_path


def _log_in(scope: Scope, headers: Headers) -> Response:
    """What to answer to whoever is not logged in."""
    if "hx-request" in headers:
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
    return RedirectResponse("/login", 303) if wants_page else _plain(401, "Log in first.")


def _plain(status: int, text: str) -> Response:
    return Response(text, status_code=status, media_type="text/plain")
