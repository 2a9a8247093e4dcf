"""Whether the coordinator's page stays smooth in a browser with a long past of many sites (Chromium by playwright)."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server.history import history
from server.run_folder import RunFolder
from simulations.benchmarks.pages import long_past, served
from simulations.screenshots import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATHS = (
    "/studies",
    "/studies/going",
    "/studies/going/rounds",
    "/studies/going/results",
    "/studies/done/results",
    "/sites",
)
SIZE = {"width": 1280, "height": 800}
_WATCH = """window.longTasks = [];
new PerformanceObserver(list => list.getEntries().forEach(one => longTasks.push(one.duration)))
  .observe({type: "longtask", buffered: true});"""
_SCROLL = """() => new Promise(done => {
  const frames = [], end = document.documentElement.scrollHeight - innerHeight;
  let last = performance.now(), at = 0;
  const step = now => {
    frames.push(now - last); last = now; at += 60; scrollTo(0, at);
    at < Math.max(end, 1800) ? requestAnimationFrame(step) : done(frames.slice(1));
  };
  requestAnimationFrame(step);
})"""


def measure(sites: int, rounds: int) -> dict[str, Any]:
    """Milliseconds. ``shown``: from asking for a page until it is loaded, drawn figures included.

    ``long tasks``: stretches in which the page answers nobody for 50 ms or more, until it is shown and scrolled from
    top to bottom. ``live``: the same while all sites of a round answer, and after it the next begins.
    """
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {"sites": sites, "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="fedct-") as folder, sync_playwright() as play:
        coordinator, going = long_past(Path(folder), sites, rounds)
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        with served(coordinator.folder) as here:
            context = browser.new_context(base_url=here.origin, viewport=SIZE)  # type: ignore[arg-type] # two numbers
            context.add_init_script(_WATCH)
            page = context.new_page()
            page.goto(here.link)
            for path in PATHS:
                page.goto(path, wait_until="load")
                page.locator("[hx-get]").wait_for(state="detached")  # what is drawn later
                shown = page.evaluate("performance.now()")
                found[path] = {"shown": round(shown)} | _scrolled(page) | _long_tasks(page)
            found["live"] = _live(page, going, rounds + 1)
        browser.close()
    return found


def _live(page: Page, going: RunFolder, round_: int) -> dict[str, float]:
    page.goto("/studies/going", wait_until="load")
    page.evaluate("longTasks.length = 0")
    for site, place in history(going).places.items():
        if place.doing == "working":
            going.event("reply", round=round_, site=site, status="ok", reason="", seconds=20.0)
            page.wait_for_timeout(100)
    facts = {"seconds": 80.0, "model_round": round_ - 1, "accuracy": 0.9, "took_part": 99, "missed": []}
    going.event("round", round=round_, **facts)
    page.get_by_text(f"Round {round_} of").first.wait_for()
    page.locator(".places").wait_for(state="detached")
    return _long_tasks(page)


def _scrolled(page: Page) -> dict[str, float]:
    """How long the longest frame was while the page was scrolled."""
    frames = page.evaluate(_SCROLL)
    return {
        "frames": len(frames),
        "longest frame": round(max(frames)),
        "frames over 50": sum(one > 50 for one in frames),
    }


def _long_tasks(page: Page) -> dict[str, float]:
    tasks = page.evaluate("longTasks")
    return {"long tasks": len(tasks), "longest task": round(max(tasks, default=0))}
