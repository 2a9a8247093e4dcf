"""A coordinator's page with a past, and browsers that look at it."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from common.web.accounts import Accounts
from common.web.serve import Exposure
from server.dashboard.app import coordinator_app, simulation_app
from simulations.showcase import Past, make_coordinator, make_run, make_study

ORIGIN = "http://127.0.0.1:8460"
PASSWORD = "correct horse battery"
SITES = ("st-anna", "riverside-general", "hospital-of-the-lake", "north-clinic")
NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
DONE, GOING = "spine-done", "spine-going"


class Browser:
    """A browser with a page open."""

    def __init__(self, app) -> None:
        headers = {"origin": ORIGIN, "accept": "text/html"}
        self.client = TestClient(app, base_url=ORIGIN, headers=headers, follow_redirects=False)

    def get(self, path: str, **values):
        return self.client.get(path, **values)

    def post(self, path: str, data=None, **values):
        token = re.search(r'name="csrf" value="([^"]+)"', self.get("/compare").text)[1]
        return self.client.post(path, data={"csrf": token, **(data or {})}, **values)

    def text(self, path: str) -> str:
        """What a person reads: no tags, white space as one space."""
        shown = self.get(path)
        assert shown.status_code == 200, shown.text
        return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", shown.text)).split())


@pytest.fixture(scope="session")
def past(tmp_path_factory):
    """A coordinator's folder with a study that finished and one that goes on; nobody writes into it."""
    folder = tmp_path_factory.mktemp("page") / "coordinator"
    coordinator = make_coordinator(folder, ("St. Anna", "Harbour View"))
    make_run(folder / "runs" / DONE, make_study("spine", "Three kinds of spine", 6), SITES, Past(6, finished=True), NOW)
    make_run(folder / "runs" / GOING, make_study("next", "Next year", 9), SITES, Past(4, finished=False), NOW)
    return coordinator


@pytest.fixture
def fresh(tmp_path):
    """A coordinator's folder of this test's own."""
    return make_coordinator(tmp_path / "coordinator", ("St. Anna", "Harbour View"))


@pytest.fixture
def page(tmp_path, monkeypatch):
    """Serve a coordinator's page, or a simulation's; browsers by the link or by role."""
    monkeypatch.setattr("common.web.accounts._LOG_N", 4)

    def serve(coordinator=None, *, run=None, roles=()):
        accounts = Accounts(tmp_path / "accounts.toml") if roles else None
        for role in roles:
            accounts.put(f"the-{role}", role, PASSWORD)
        actions = []
        where = Exposure("127.0.0.1", 8460, ("127.0.0.1", "localhost"), accounts)
        build, what = (simulation_app, run) if run else (coordinator_app, coordinator)
        app = build(what, where, actions.append, lambda _: None)

        def browser(role: str = "") -> Browser:
            made = Browser(app)
            if role:
                shown = made.client.post("/login", data={"name": f"the-{role}", "password": PASSWORD})
            else:
                shown = made.get(app.state.door.link)
            assert shown.status_code == 303
            return made

        return SimpleNamespace(app=app, actions=actions, browser=browser)

    return serve
