"""How long the coordinator's page takes, with a long past of many sites: its own process, over HTTP on loopback."""

from __future__ import annotations

import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from server.coordinator import Coordinator
from server.history import history
from server.run_folder import RunFolder
from simulations.showcase import Past, make_coordinator, make_run, make_study

PATHS = (
    "/studies",
    *(f"/studies/going{part}" for part in ("", "/rounds", "/results", "/results/figures")),
    *(f"/studies/done{part}" for part in ("", "/rounds", "/results")),
    *("/sites", "/launch", "/compare"),
)
REPEATS = 20
SECONDS = 60.0
ANSWERS = 9
PROGRAM = "import sys; sys.argv[0] = 'fedct-coordinator'; from server.cli import main; main()"


@dataclass(frozen=True)
class Served:
    """A page that is being served. ``begun``: milliseconds until it said its ``link``, which lets in once."""

    process: psutil.Process
    link: str
    begun: float

    @property
    def origin(self) -> str:
        return self.link.split("/enter")[0]


def measure(sites: int, rounds: int) -> dict[str, Any]:
    """Milliseconds by the clock, with one study finished and one that goes on.

    ``first``: as the first request of all, at once after the page said its link, in a process of its own for each path.
    ``median`` and ``longest`` of ``REPEATS`` in one process, after another look. ``kB`` of HTML.
    """
    with tempfile.TemporaryDirectory(prefix="fedct-") as place:
        coordinator, going = long_past(Path(place), sites, rounds)
        pages = {path: {"first": _first(coordinator.folder, path)} for path in PATHS}
        found: dict[str, Any] = {"sites": sites, "rounds": rounds, "pages": pages}
        with served(coordinator.folder) as here:
            cookie = enter(here)
            for path in PATHS:
                fetch(here, path, cookie)
                looks = [fetch(here, path, cookie) for _ in range(REPEATS)]
                taken = [milliseconds for milliseconds, _ in looks]
                pages[path] |= {"median": _round(statistics.median(taken)), "longest": max(taken)}
                pages[path]["kB"] = _round(len(looks[0][1]) / 1e3)
            found["until the link, ms"] = here.begun
            found["live"] = _live(here, cookie, going, rounds + 1)
            found["memory at last, MB"] = round(here.process.memory_info().rss / 1e6)
    return found


def long_past(folder: Path, sites: int, rounds: int) -> tuple[Coordinator, RunFolder]:
    """A coordinator with a study that finished and one that goes on, which is the second."""
    names, now = [f"hospital-{number:03d}" for number in range(1, sites + 1)], datetime.now(UTC)
    coordinator = make_coordinator(folder / "coordinator", names)
    runs = coordinator.folder / "runs"
    make_run(runs / "done", make_study("done", "Done", rounds), names, Past(rounds, finished=True), now)
    study = make_study("going", "Going", rounds + 9)
    return coordinator, make_run(runs / "going", study, names, Past(rounds, finished=False), now)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """``fedct-coordinator dashboard`` on a free port, ended at the end."""
    begun = time.perf_counter()
    call = [sys.executable, "-c", PROGRAM, "dashboard", "--dir", str(folder), "--port", "0"]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = process.stdout.readline() if process.stdout else ""
            yield Served(psutil.Process(process.pid), said.removeprefix("Open ").strip(), _since(begun))
        finally:
            process.terminate()


def enter(here: Served) -> str:
    """Come in by the link; the cookie."""
    link = urlsplit(here.link)
    connection = http.client.HTTPConnection(link.netloc, timeout=SECONDS)
    connection.request("GET", f"{link.path}?{link.query}")
    cookie = connection.getresponse().headers["set-cookie"]
    connection.close()
    return str(cookie).split(";", maxsplit=1)[0]


def fetch(here: Served, path: str, cookie: str) -> tuple[float, bytes]:
    """Milliseconds until the whole of a page is there, and the page. Raises RuntimeError if it is another answer."""
    begun = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(here.origin).netloc, timeout=SECONDS)
    connection.request("GET", path, headers={"cookie": cookie, "accept": "text/html"})
    answer = connection.getresponse()
    content, taken = answer.read(), _since(begun)
    connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{path}: {answer.status}")
    return taken, content


def _first(folder: Path, path: str) -> float:
    with served(folder) as here:
        return fetch(here, path, enter(here))[0]


def _live(here: Served, cookie: str, going: RunFolder, round_: int) -> dict[str, float]:
    """Bytes of one update of a study's page, and milliseconds from an answer of a site to its update."""
    connection = http.client.HTTPConnection(urlsplit(here.origin).netloc, timeout=SECONDS)
    connection.request("GET", "/studies/going/live", headers={"cookie": cookie})
    stream = connection.getresponse()
    sizes, delays = [_update(stream)], []
    at_work = [place.site for place in history(going).places.values() if place.doing == "working"]
    for site in at_work[:ANSWERS]:
        going.event("reply", round=round_, site=site, status="ok", reason="", seconds=1.0)
        begun = time.perf_counter()
        sizes.append(_update(stream))
        delays.append(_since(begun))
    connection.close()
    return {"kB an update": _round(sizes[-1] / 1e3), "ms until it is sent": _round(statistics.median(delays))}


def _update(stream: http.client.HTTPResponse) -> int:
    """Bytes of the next event of a stream; comments that keep it open are passed over."""
    size = 0
    while line := stream.readline():
        size += 0 if line.startswith(b":") or not (size or line.strip()) else len(line)
        if size and line == b"\n":
            return size
    raise RuntimeError("the stream ended")


def _since(begun: float) -> float:
    return _round(1000 * (time.perf_counter() - begun))


def _round(value: float) -> float:
    return round(value, 1)
