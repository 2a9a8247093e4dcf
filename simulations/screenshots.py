"""python -m simulations.screenshots: pictures of the coordinator's and the site's page for the documentation.

Needs Chromium and the development dependencies (playwright). The past that is shown is made up (``showcase``).
"""

from __future__ import annotations

import io
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from PIL import Image

from client.console.app import site_app
from client.proposals import proposals
from client.site import Site
from common.console import say
from common.errors import UsageError
from common.study import study_from_toml
from common.web.accounts import FILE, Accounts
from common.web.serve import LOCAL_NAMES, Exposure, listen
from server.dashboard.app import coordinator_app
from server.dashboard.launch import starter
from server.dashboard.signed import sign
from server.registry import site_name
from simulations.showcase import HOSPITALS, Past, make_coordinator, make_run, make_study
from simulations.site_history import give_past, make_site

if TYPE_CHECKING:
    from fastapi import FastAPI
    from playwright.sync_api import Browser, Page

OUT = Path("docs/images/pages")
SIZES = {"desktop": (1280, 800), "phone": (390, 780)}
COLOURS = 128
TALLEST = 2400
WHO = "approver"
DONE, GOING = "spine-20260301-090000", "spine-next-20260305-090000"
_HIDE = """folder => { const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) walk.currentNode.nodeValue = walk.currentNode.nodeValue.replaceAll(folder, "/srv/fedct"); }"""
PAGES = {
    "studies": "/studies",
    "study": f"/studies/{GOING}",
    "rounds": f"/studies/{GOING}/rounds",
    "results": f"/studies/{DONE}/results",
    "compare": "/compare",
    "sites": "/sites",
    "admit": "/sites/admit",
    "launch": "/launch",
    "signed": "/launch/signed/my-study",
    "stop": f"/studies/{GOING}/stop",
}


@dataclass(frozen=True)
class Served:
    """A page that is being served: where, and the link that lets in once, unless there are accounts."""

    origin: str
    link: Callable[[], str]


@contextmanager
def served(build: Callable[[Exposure], FastAPI], accounts: Accounts | None = None) -> Iterator[Served]:
    """Serve an application on a free loopback port, in a thread of this process."""
    with listen("127.0.0.1", 0) as listener:
        where = Exposure("127.0.0.1", listener.getsockname()[1], LOCAL_NAMES, accounts)
        app = build(where)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Served(where.origin, lambda: app.state.door.link)
        finally:
            app.state.stopping.set()
            server.should_exit = True
            thread.join()


def past(folder: Path) -> Callable[[Exposure], FastAPI]:
    """A coordinator with three studies and one that is signed, and its page."""
    now, sites = datetime.now(UTC), [site_name(hospital) for hospital in HOSPITALS[:-1]]
    coordinator = make_coordinator(folder)
    runs = folder / "runs"
    make_run(runs / DONE, make_study("spine", "Three kinds of spine", 20), sites, Past(20, finished=True), now)
    wide = make_study("spine-wide", "Three kinds of spine, wider window", 30)
    make_run(runs / "spine-wide-20260304-090000", wide, sites, Past(30, finished=True), now, 1)
    following = make_study("spine-next", "Three kinds of spine, next year's patients", 40)
    make_run(runs / GOING, following, sites, Past(13, finished=False), now, 2)
    text = starter()
    sign(coordinator, study_from_toml(text), text)
    return lambda where: coordinator_app(coordinator, where, lambda _: None, lambda _: None)


def site_past(folder: Path, patients: int = 24) -> Site:
    """A hospital with a cohort, decisions, rounds, and two studies that wait (``simulations.site_history``)."""
    site, key = make_site(folder, patients=patients)
    give_past(site, key)
    return site


def site_page(site: Site) -> Callable[[Exposure], FastAPI]:
    """Its page."""
    return lambda where: site_app(site, where, lambda _: None)


def site_pages(site: Site) -> dict[str, str]:
    """The addresses of its page, by the names of their pictures."""
    fits, greedy = (one.study for one in proposals(site))
    study = f"/studies/{fits.digest}"
    return {
        "site-studies": "/studies",
        "site-study": study,
        "site-refused": f"/studies/{greedy.digest}",
        "site-approve": f"{study}/approve",
        "site-budget": "/budget",
        "site-cohorts": "/cohorts",
        "site-cohort": f"/cohorts/{fits.cohort_digest[:16]}",
        "site-releases": "/releases",
        "site-records": "/records",
        "site-ledger": "/records/ledger?q=2026-02-07",
        "site-health": "/health",
    }


def take(page: Page, origin: str, out: Path, pages: Mapping[str, str], hidden: str = "") -> list[Path]:
    """Every page, light and dark, at desktop and phone width. ``hidden``: a folder of this machine to be called /srv."""
    made = []
    for name, path in pages.items():
        for scheme in ("light", "dark"):
            for size, (width, height) in SIZES.items():
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": height})
                page.goto(origin + path)
                page.locator("[hx-get]").wait_for(state="detached")  # what is drawn later
                if hidden:
                    page.evaluate(_HIDE, hidden)
                made.append(out / f"{name}-{scheme}-{size}.png")
                _save(page.screenshot(full_page=True), made[-1])
    return made


def chromium() -> str:
    """Where Chromium is. Raises UsageError when it is not installed."""
    found = shutil.which("chromium")
    if found is None:
        raise UsageError("there is no chromium on PATH", "Install it: apt-get install chromium")
    return found


def _save(picture: bytes, path: Path) -> None:
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    cut = image.crop((0, 0, image.width, min(image.height, TALLEST)))
    cut.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def _show(
    browser: Browser,
    build: Callable[[Exposure], FastAPI],
    folder: Path,
    before: Mapping[str, str],
    pages: Mapping[str, str],
) -> list[Path]:
    """Pictures of one application: of what is there ``before`` somebody logs in, and of its ``pages``."""
    accounts, password = Accounts(folder / FILE), secrets.token_hex(16)
    accounts.put(WHO, "approver", password)
    with served(build, accounts) as here:
        page = browser.new_page()
        made = take(page, here.origin, OUT, before)
        page.goto(f"{here.origin}/login")
        page.get_by_label("Name").fill(WHO)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("button", name="Log out").wait_for()
        made += take(page, here.origin, OUT, pages, str(folder))
        page.close()
    return made


def main() -> None:
    """Write all pictures to ``OUT``."""
    from playwright.sync_api import sync_playwright

    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fedct-") as folder, sync_playwright() as play:
        root = Path(folder)
        site = site_past(root)
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        made = _show(browser, past(root / "coordinator"), root, {"login": "/login"}, PAGES)
        made += _show(browser, site_page(site), root, {}, site_pages(site))
        browser.close()
    say(f"{len(made)} pictures in '{OUT}', {sum(path.stat().st_size for path in made) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
