"""How long the server takes for each place of the coordinator's page, with a long past of many sites."""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from common.web.serve import LOCAL_NAMES, Exposure
from server.dashboard.app import coordinator_app
from simulations.showcase import Past, make_coordinator, make_run, make_study

PATHS = (
    *("/studies", "/studies/going", "/studies/going/rounds", "/studies/done", "/studies/done/results"),
    *("/sites", "/launch", "/compare", "/studies/done/results/figures", "/studies/going/results/figures"),
)
REPEATS = 9
HERE = "http://127.0.0.1:8460"


def measure(sites: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each page, by the clock and of the processor: the first look, and the median of later ones.

    One study finished and one goes on, each over so many ``sites`` and ``rounds``. ``figures`` are what a page of
    results fetches once it is shown.
    """
    names = [f"hospital-{number:03d}" for number in range(1, sites + 1)]
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="fedct-") as folder:
        coordinator = make_coordinator(Path(folder) / "coordinator", names)
        runs = coordinator.folder / "runs"
        make_run(runs / "done", make_study("done", "Done", rounds), names, Past(rounds, finished=True), now)
        make_run(runs / "going", make_study("going", "Going", rounds + 9), names, Past(rounds, finished=False), now)
        where = Exposure("127.0.0.1", 8460, LOCAL_NAMES, None)
        app = coordinator_app(coordinator, where, lambda _: None, lambda _: None)
        browser = TestClient(app, base_url=HERE, follow_redirects=False)
        browser.get(app.state.door.link)
        return {"sites": sites, "rounds": rounds} | {path: _time(browser, path) for path in PATHS}


def _time(browser: TestClient, path: str) -> dict[str, int]:
    taken, worked = [], []
    for _ in range(REPEATS):
        started, before = time.perf_counter(), time.process_time()
        browser.get(path).raise_for_status()
        taken.append(1000 * (time.perf_counter() - started))
        worked.append(1000 * (time.process_time() - before))
    return {
        "first": round(taken[0]),
        "first_processor": round(worked[0]),
        "later": round(statistics.median(taken[1:])),
        "later_processor": round(statistics.median(worked[1:])),
    }
