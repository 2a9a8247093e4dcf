"""A page's application: ``page_app`` puts gate, login, templates, static files and error pages together.

A page's own routes take ``View`` and give what ``show`` or ``go`` make::

    router = APIRouter()

    @router.get("/studies")
    def studies(view: View) -> Response:
        return view.show("studies.html.j2", studies=...)

    @router.post("/studies/{name}/stop")
    @needs("operator")
    def stop(view: View, name: Name) -> Response:
        ...
        return view.go(f"/studies/{name}", view.t("study.stopped"))
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from jinja2 import Environment
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from common.pages import page_environment
from common.web import login, problems
from common.web.accounts import Accounts, Role, allows
from common.web.gate import Audit, Gate, authorise
from common.web.sessions import Session
from common.web.texts import Texts
from common.web.wording import ago, when

STATIC = Path(__file__).parent / "static"
COMMON = "common.web"


@dataclass(frozen=True)
class Page:
    """What a page is made of.

    ``title``: its name in the head, plain text. ``package``: whose ``templates/`` and ``texts.en.toml``. ``nav``: path
    and text key of each place. ``hosts``: what the Host header may name. ``port``: it names the cookie, since cookies
    don't tell ports apart. ``accounts``: None where a link lets one person in, who may do all. ``secure``: by TLS.
    ``audit``: takes each action. ``say``: tells the person at the terminal. ``origin``: where the link leads.
    """

    title: str
    package: str
    nav: tuple[tuple[str, str], ...]
    hosts: tuple[str, ...]
    port: int
    origin: str
    accounts: Accounts | None
    secure: bool
    audit: Audit
    say: Callable[[str], None]


class Viewer:
    """How a handler answers one request. ``user``, ``role``: who asks."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.environment: Environment = request.app.state.environment
        self.t: Texts = request.app.state.texts
        self.session: Session | None = getattr(request.state, "session", None)

    @property
    def user(self) -> str:
        return self.session.user if self.session else ""

    def may(self, role: Role) -> bool:
        """Whether who asks may do what needs ``role``."""
        return self.session is not None and allows(self.session.role, role)

    def show(self, template: str, status: int = 200, /, **values: Any) -> Response:
        """A page made of ``template``, with the messages that wait for this person."""
        return HTMLResponse(self.render(template, **values), status)

    def render(self, template: str, /, **values: Any) -> str:
        """The text of ``template``: a whole page, or a part for htmx or an event stream."""
        said = list(self.session.said) if self.session else []
        text = self.environment.get_template(template).render(
            view=self, said=said, path=self.request.url.path, **values
        )
        if self.session and template.endswith(".html.j2") and not template.startswith("_"):
            del self.session.said[: len(said)]
        return text

    def go(self, path: str, said: str = "", kind: str = "good") -> Response:
        """On to ``path`` of this page, where ``said`` is shown. ``kind``: ``good``, ``warn`` or ``bad``."""
        if said and self.session:
            self.session.said.append((kind, said))
        return RedirectResponse(path, 303)

    def act(self, note: str) -> None:
        """Have this request on the audit with ``note``, also if it changes nothing (a download)."""
        self.request.state.action = note


View = Annotated[Viewer, Depends(Viewer)]


def page_app(page: Page, router: APIRouter) -> FastAPI:
    """The application of ``page`` with the routes of ``router``."""
    door = login.Door(page)
    gate = Middleware(
        Gate,
        hosts=page.hosts,
        find=door.session,
        failed=problems.unexpected(Viewer),
        secure=page.secure,
        audit=page.audit,
    )
    app = FastAPI(
        title=page.title,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        default_response_class=HTMLResponse,
        dependencies=[Depends(authorise)],
        middleware=[gate],
    )
    app.state.environment, app.state.texts = _environment(page)
    app.state.stopping, app.state.door = threading.Event(), door
    app.include_router(login.router)
    app.include_router(router)
    app.mount("/static", _Static(directory=STATIC), name="static")
    problems.install(app, Viewer)
    return app


class _Static(StaticFiles):
    """Files that a browser keeps, and asks about."""

    def file_response(self, *arguments: Any, **values: Any) -> Response:
        response = super().file_response(*arguments, **values)
        response.headers["cache-control"] = "no-cache"
        return response


def _environment(page: Page) -> tuple[Environment, Texts]:
    texts = Texts(COMMON, page.package)
    environment = page_environment(page.package, COMMON)
    environment.globals.update(t=texts, page=page, when=when, ago=ago)
    return environment, texts
