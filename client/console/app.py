"""The site's page put together, and served until it is stopped."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from fastapi import APIRouter, FastAPI
from starlette.responses import RedirectResponse, Response

from client.console import budget, cohorts, health, records, releases, studies
from client.console.desk import Desk
from client.console.journal import SiteJournal
from client.site import Site
from common.errors import FedctError
from common.web.page import Page, page_app
from common.web.serve import Exposure, listen, meanwhile, serve

NAV = (
    ("/studies", "nav.studies"),
    ("/budget", "nav.budget"),
    ("/cohorts", "nav.cohorts"),
    ("/releases", "nav.releases"),
    ("/records", "nav.records"),
    ("/health", "nav.health"),
)
STOP_SECONDS = 30.0

router = APIRouter()
for part in (studies, budget, cohorts, releases, records, health):
    router.include_router(part.router)


@router.get("/")
def home() -> Response:
    """The first place."""
    return RedirectResponse("/studies", 303)


def site_app(site: Site, where: Exposure, say: Callable[[str], None]) -> FastAPI:
    """The application of one site's page."""
    desk = Desk(site.folder)
    page = Page(
        title=site.config.title or site.name,
        package="client.console",
        nav=NAV,
        hosts=where.names,
        port=where.port,
        origin=where.origin,
        accounts=where.accounts,
        secure=where.secure,
        audit=SiteJournal(desk.books.audit),
        say=say,
    )
    app = page_app(page, router)
    app.state.desk = desk
    return app


def run(site: Site, where: Exposure, say: Callable[[str], None]) -> None:
    """Serve the page until SIGTERM or Ctrl-C. Raises UsageError when the port is taken."""
    with listen(where.host, where.port) as listener:
        here = where.on(listener)
        app = site_app(site, here, say)
        with meanwhile(lambda stopping: _read_ahead(app, stopping)), _no_scan_after(app.state.desk):
            serve(app, listener, here, lambda: say(f"The page of site '{site.name}': {here.link(app)}"))


def _read_ahead(app: FastAPI, stopping: threading.Event) -> None:
    """Read the records, add up the budget and draw it, before somebody asks for them."""
    desk: Desk = app.state.desk
    with contextlib.suppress(FedctError):  # the pages say what is wrong with them
        site = desk.site
        desk.books.log()
        desk.books.entries()
        if not stopping.is_set():
            budget.drawn(app.state.texts, budget.figures(desk, site), site.config.policy.max_epsilon)


@contextlib.contextmanager
def _no_scan_after(desk: Desk) -> Iterator[None]:
    """Have no scan go on when the page has ended."""
    try:
        yield
    finally:
        desk.scan.stop(STOP_SECONDS)
