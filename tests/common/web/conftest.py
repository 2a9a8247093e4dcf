"""A page of three routes, and browsers that look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from fastapi import APIRouter, Form
from fastapi.testclient import TestClient
from starlette.responses import Response

from common.errors import RunError
from common.web.accounts import Accounts
from common.web.gate import Action, needs
from common.web.page import Page, View, page_app

ORIGIN = "http://127.0.0.1:8460"
PASSWORD = "correct horse battery"

router = APIRouter()


@router.get("/")
def home(view: View) -> Response:
    return view.show("confirm.html.j2", title="Home", lines=[], action="/do", go="Do", back="/")


@router.post("/do")
@needs("operator")
def do(view: View, what: Annotated[str, Form()] = "") -> Response:
    view.act(f"did {what}")
    return view.go("/", f"Did {what}")


@router.post("/unmarked")
def unmarked() -> Response:
    return Response("done")


@router.get("/breaks")
def breaks() -> Response:
    raise ValueError("secret detail")


@router.get("/refuses")
def refuses() -> Response:
    raise RunError("the <b>run</b> can't go on", "Start it anew")


@router.get("/fetch")
def fetch(view: View) -> Response:
    view.act("fetched the model")
    return Response("bytes")


@dataclass
class Served:
    """The application, what was audited and what was said at the terminal."""

    page: Page
    actions: list[Action] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.app = page_app(self.page, router)

    def browser(self) -> TestClient:
        """A browser that nobody is logged in with; it sends the Origin that a form of the page would."""
        return TestClient(
            self.app, base_url=ORIGIN, headers={"origin": ORIGIN, "accept": "text/html"}, follow_redirects=False
        )

    def entered(self) -> TestClient:
        """A browser that came by the link."""
        browser = self.browser()
        assert browser.get(self.app.state.door.link).status_code == 303
        return browser

    def logged_in(self, name: str) -> TestClient:
        browser = self.browser()
        assert browser.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
        return browser


def csrf(browser: TestClient) -> str:
    """The token in the page's forms."""
    return browser.get("/").text.split('name="csrf" value="')[1].split('"')[0]


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch):
    """Hashing is slow on purpose; here it need not be."""
    monkeypatch.setattr("common.web.accounts._LOG_N", 4)


@pytest.fixture
def serve(tmp_path) -> Callable[..., Served]:
    """Serve the page: with the accounts named, each by its role, or else by a link."""

    def make(*roles: str, secure: bool = False) -> Served:
        accounts = Accounts(tmp_path / "accounts.toml") if roles else None
        for role in roles:
            accounts.put(f"the-{role}", role, PASSWORD)
        actions, said = [], []
        page = Page(
            title="Test",
            package="common.web",
            nav=(("/", "page.menu"),),
            hosts=("127.0.0.1", "localhost"),
            port=8460,
            origin=ORIGIN,
            accounts=accounts,
            secure=secure,
            audit=actions.append,
            say=said.append,
        )
        return Served(page, actions, said)

    return make


@pytest.fixture
def token_of() -> Callable[[TestClient], str]:
    return csrf
