"""How somebody comes in: by name and password, or, where there are no accounts, by a link that works once.

The link is printed on the terminal of whoever started the page, as Jupyter does, so that neither another user of the
machine nor a website in the same browser can use it. Once it was used, the next one is printed.
"""

from __future__ import annotations

import getpass
import hmac
import secrets
import threading
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Form, HTTPException, Query, Request
from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse, Response

from common.web.gate import needs
from common.web.sessions import Session, Sessions
from common.web.throttle import Throttle

if TYPE_CHECKING:
    from common.web.page import Page, Viewer

router = APIRouter()


def cookie_name(port: int, *, secure: bool) -> str:
    """The session cookie's name. Under TLS the prefix binds it to host and path."""
    return f"__Host-fedct-{port}" if secure else f"fedct-{port}"


class Door:
    """Who may come in, and the cookie that says so."""

    def __init__(self, page: Page) -> None:
        self.page, self._sessions = page, Sessions()
        self._cookie = cookie_name(page.port, secure=page.secure)
        self._throttle, self._lock = Throttle(), threading.Lock()
        self._token = secrets.token_urlsafe(32)

    def session(self, connection: HTTPConnection, *, touch: bool = True) -> Session | None:
        """The session of a request, with the role that its account has now; None once the account has changed."""
        cookie = connection.cookies.get(self._cookie, "")
        session = self._sessions.find(cookie, touch=touch)
        if session is None or self.page.accounts is None:
            return session
        account = self.page.accounts.read().get(session.user)
        if account is None or not hmac.compare_digest(account.hash, session.proof):
            self._sessions.end(cookie)
            return None
        session.role = account.role
        return session

    @property
    def link(self) -> str:
        """The link that works once. Only where there are no accounts."""
        return f"{self.page.origin}/enter?token={self._token}"

    def enter(self, token: str, address: str) -> Session:
        """The session of who holds the link. Raises HTTPException."""
        if self.page.accounts is not None:
            raise HTTPException(404)
        self._wait(address)
        with self._lock:
            if not hmac.compare_digest(token.encode(), self._token.encode()):
                self._throttle.failed(address)
                raise HTTPException(403, "link")
            self._token = secrets.token_urlsafe(32)
        self.page.say(f"The link was used. For another browser: {self.link}")
        return Session(_system_user(), "approver")

    def login(self, name: str, password: str, address: str) -> Session | None:
        """The session of who knows a password; None if it is wrong. Raises HTTPException."""
        if self.page.accounts is None:
            raise HTTPException(404)
        self._wait(address, f"name {name}")
        account = self.page.accounts.check(name, password)
        if account is None:
            self._throttle.failed(address, f"name {name}")
            return None
        self._throttle.succeeded(f"name {name}")
        return Session(name, account.role, account.hash)

    def let_in(self, request: Request, session: Session) -> Response:
        """On to the page with a new session; the one that the browser had is over."""
        self._sessions.end(request.cookies.get(self._cookie, ""))
        request.state.action, request.state.entered = "logged in", session
        response = RedirectResponse("/", 303)
        response.set_cookie(
            self._cookie,
            self._sessions.begin(session),
            secure=self.page.secure,
            httponly=True,
            samesite="strict",
            path="/",
        )
        return response

    def leave(self, request: Request) -> Response:
        """End the session."""
        self._sessions.end(request.cookies.get(self._cookie, ""))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self._cookie, secure=self.page.secure, httponly=True, samesite="strict")
        return response

    def _wait(self, *keys: str) -> None:
        seconds = self._throttle.wait(*keys)
        if seconds > 0:
            raise HTTPException(429, "wait", {"Retry-After": f"{seconds:.0f}"})


@router.get("/enter")
def enter(request: Request, token: Annotated[str, Query(max_length=200)] = "") -> Response:
    """Come in by the link."""
    door: Door = request.app.state.door
    return door.let_in(request, door.enter(token, _address(request)))


@router.get("/login")
def login_page(request: Request) -> Response:
    """Ask for name and password, or say where the link is."""
    if request.state.session is not None:
        return RedirectResponse("/", 303)
    return _viewer(request).show("login.html.j2", failed=False)


@router.post("/login")
def log_in(
    request: Request,
    name: Annotated[str, Form(max_length=64)],
    password: Annotated[str, Form(max_length=1024)],
) -> Response:
    """Come in by name and password."""
    door: Door = request.app.state.door
    session = door.login(name, password, _address(request))
    if session is None:
        request.state.action = f"wrong name or password, as {name!r}"
        return _viewer(request).show("login.html.j2", 403, failed=True)
    return door.let_in(request, session)


@router.post("/logout")
@needs("viewer")
def log_out(request: Request) -> Response:
    """End the session."""
    door: Door = request.app.state.door
    return door.leave(request)


def _viewer(request: Request) -> Viewer:
    from common.web.page import Viewer

    return Viewer(request)


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "local"
