"""The coordinator's page as an application."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import APIRouter, FastAPI

from common.web.gate import Audit
from common.web.page import Page, page_app
from common.web.serve import Exposure
from server.coordinator import Coordinator
from server.daemon import daemon_of
from server.dashboard import launch, results, signed, sites, studies
from server.dashboard.desk import Desk
from server.dashboard.shelf import CoordinatorShelf, Runs, SimulationShelf
from server.history import moment
from server.report import words

PACKAGE = "server.dashboard"
PLACES = (("/studies", "nav.studies"), ("/compare", "nav.compare"))
COORDINATORS_PLACES = (PLACES[0], ("/sites", "nav.sites"), ("/launch", "nav.launch"), PLACES[1])


def coordinator_app(coordinator: Coordinator, where: Exposure, audit: Audit, say: Callable[[str], None]) -> FastAPI:
    """The page of a coordinator."""
    desk = Desk(Runs(CoordinatorShelf(daemon_of(coordinator))), coordinator)
    routers = (studies.router, results.router, sites.router, launch.router, signed.router)
    return _app(coordinator.config.title, COORDINATORS_PLACES, routers, desk, where, audit, say)


def simulation_app(root: Path, where: Exposure, audit: Audit, say: Callable[[str], None]) -> FastAPI:
    """The page of one simulated run. Raises UsageError when ``root`` holds none."""
    desk = Desk(Runs(SimulationShelf(root)), None)
    return _app("Simulation", PLACES, (studies.router, results.router), desk, where, audit, say)


def _app(
    title: str,
    nav: tuple[tuple[str, str], ...],
    routers: tuple[APIRouter, ...],
    desk: Desk,
    where: Exposure,
    audit: Audit,
    say: Callable[[str], None],
) -> FastAPI:
    together = APIRouter()
    for router in routers:
        together.include_router(router)
    page = Page(
        title=title,
        package=PACKAGE,
        nav=nav,
        hosts=where.names,
        port=where.port,
        origin=where.origin,
        accounts=where.accounts,
        secure=where.secure,
        audit=audit,
        say=say,
    )
    app = page_app(page, together)
    app.state.desk = desk
    app.state.environment.globals.update(words=words, time_of=moment)
    return app
