"""Memory and time of a simulated consortium: peak over the whole family of processes of a run."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from common.study import Study
from simulations.federation import run_federation

SAMPLE_SECONDS = 0.5


def measure(study: Study, sites: Path, out: Path, *, base: Path) -> dict[str, Any]:
    """Run ``study`` and watch this process and all its descendants.

    ``peak_gb``: largest sum of proportional set sizes, so that shared pages count once.
    """
    done, peak = threading.Event(), [0.0]
    watcher = threading.Thread(target=_watch, args=(done, peak), daemon=True)
    watcher.start()
    started = time.monotonic()
    try:
        results = run_federation(study, sites, out, base=base)
    finally:
        done.set()
        watcher.join()
    rounds = [record.seconds for record in results.rounds]
    return {
        "study": study.name,
        "sites": len(results.sites),
        "rounds": len(rounds),
        "minutes": (time.monotonic() - started) / 60,
        "seconds_a_round": sum(rounds) / len(rounds),
        "peak_gb": peak[0] / 1e9,
        "cores": os.cpu_count(),
    }


def _watch(done: threading.Event, peak: list[float]) -> None:
    me = psutil.Process()
    while not done.wait(SAMPLE_SECONDS):
        total = 0
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        peak[0] = max(peak[0], total)
