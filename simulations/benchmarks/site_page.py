"""How long the site's page takes on the server's side, with many years in its records."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from client.audit_log import AuditLog
from client.chain import GENESIS, Head, chain_hash, write_head
from client.console.app import site_app
from client.ledger import _COLUMNS, Ledger
from client.proposals import propose
from client.site import PolicySettings, Site, SiteConfig, create_site
from common.pki.keys import new_study_key
from common.pki.signature import sign_study
from common.privacy.events import SubsampledGaussian, events_to_json
from common.study import canonical_json
from common.web.serve import LOCAL_NAMES, Exposure
from simulations.site_history import study_like

STUDIES = 25
PAGES = {
    "studies": "/studies",
    "budget": "/budget",
    "budget, computed": "/budget/picture",
    "a study that waits": "/studies/{digest}",
    "a study that waits, its cost": "/studies/{digest}/cost",
    "releases": "/releases",
    "releases, last page": "/releases?page=100000",
    "audit log": "/records",
    "audit log, searched": "/records?q=study-7",
    "ledger": "/records/ledger",
    "ledger, searched": "/records/ledger?q=study-7",
    "cohorts": "/cohorts",
}


def measure(rows: int, lines: int, repeats: int) -> dict[str, Any]:
    """Milliseconds of each page: the first time, and the median and the longest of ``repeats`` more."""
    from fastapi.testclient import TestClient

    origin = "http://127.0.0.1:8461"
    with tempfile.TemporaryDirectory() as folder:
        policy = PolicySettings(max_epsilon=8.0, max_delta=1e-5)
        site = create_site(Path(folder) / "site", SiteConfig(name="site", simulated=True, policy=policy))
        fill_ledger(site, rows)
        fill_log(site, lines)
        key, waits = new_study_key(), study_like("waits", "A study that waits", "", rounds=40, epsilon=1.0)
        propose(site, waits, sign_study(waits, key))
        app = site_app(site, Exposure("127.0.0.1", 8461, LOCAL_NAMES, None), lambda _: None)
        browser = TestClient(app, base_url=origin, headers={"origin": origin})
        browser.get(app.state.door.link, follow_redirects=False)
        begun = time.perf_counter()
        app.state.desk.books.log()
        app.state.desk.books.entries()
        found: dict[str, Any] = {"rows": rows, "lines": lines, "verified at first, ms": _since(begun)}
        for name, path in PAGES.items():
            times = [_timed(browser, path.format(digest=waits.digest)) for _ in range(repeats + 1)]
            found[name] = {
                "first": times[0],
                "median": round(statistics.median(times[1:]), 1),
                "longest": max(times[1:]),
            }
        return found


def fill_ledger(site: Site, rows: int) -> None:
    """Charges of ``STUDIES`` studies, straight into the table: by ``reserve`` each would verify those before it."""
    Ledger(site.ledger_file)
    prev, now = GENESIS, datetime(2026, 1, 1, tzinfo=UTC)
    with closing(sqlite3.connect(site.ledger_file, isolation_level=None)) as database:
        database.execute("BEGIN")
        for number in range(1, rows + 1):
            study = (number - 1) * STUDIES // rows
            events = events_to_json((SubsampledGaussian(sigma=20.0 + study, q=0.1, steps=2),))
            time_ = (now + timedelta(hours=number)).isoformat(timespec="milliseconds")
            values = (number, time_, "reserve", "default", f"{study:064x}", number, events, 0, "", prev)
            prev = chain_hash(dict(zip(_COLUMNS, values, strict=False)))
            database.execute(f"INSERT INTO entry VALUES ({', '.join('?' * len(_COLUMNS))})", (*values, prev))  # noqa: S608
        database.execute("COMMIT")
    write_head(site.ledger_file.with_suffix(".head"), Head(rows, prev))


def fill_log(site: Site, lines: int) -> None:
    """Decisions, rounds and releases of the same studies."""
    prev, now = GENESIS, datetime(2026, 1, 1, tzinfo=UTC)
    with site.audit_file.open("wb") as file:
        for number in range(1, lines + 1):
            study = (number - 1) * STUDIES // lines
            details: dict[str, Any] = {"study": f"{study:064x}", "round": number % 500 + 1}
            kind = ("round", "release")[number % 2]
            if number == 1 or (number - 2) * STUDIES // lines != study:
                kind, details = "study-approved", {"study": f"{study:064x}", "name": f"study-{study}", "epsilon": 1.0}
            elif kind == "release":
                details |= {"update_bytes": 46_000_000, "private": True, "evaluation": "none"}
            else:
                details |= {"training": True}
            record: dict[str, Any] = {
                "n": number,
                "time": (now + timedelta(minutes=6 * number)).isoformat(),
                "kind": kind,
            }
            record |= {"details": details, "prev": prev}
            prev = record["hash"] = chain_hash(record)
            file.write(canonical_json(record).encode() + b"\n")
    write_head(AuditLog(site.audit_file).head_path, Head(lines, prev))


def _timed(browser: Any, path: str) -> float:
    begun = time.perf_counter()
    answer = browser.get(path)
    taken = _since(begun)
    if answer.status_code != 200:
        raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:500]}")
    return taken


def _since(begun: float) -> float:
    return round(1000 * (time.perf_counter() - begun), 1)
