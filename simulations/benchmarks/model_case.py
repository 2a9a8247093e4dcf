"""The model case: one study, several seeds, federated beside central training and each hospital alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.study import Study
from server.results import Metrics, Results
from simulations.federation import run_federation


def measure(study: Study, sites: Path, out: Path, seeds: Sequence[int], *, base: Path) -> dict[str, Any]:
    """Run ``study`` beside central training once a seed, and beside each hospital alone with the first seed.

    Figures of each run, and over the runs that have it the mean and spread of each figure.
    """
    runs = []
    for seed in seeds:
        started = time.monotonic()
        kinds = ("local", "central") if seed == seeds[0] else ("central",)
        results = run_federation(study, sites, out / f"seed-{seed}", base=base, seed=seed, kinds=kinds)
        runs.append({"seed": seed, "minutes": (time.monotonic() - started) / 60, **figures(results)})
    summary = {}
    for key in [key for key, value in runs[0].items() if isinstance(value, float)]:
        values = [run[key] for run in runs if key in run]
        summary[key] = {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
    return {"study": study.name, "digest": study.digest, "runs": runs, "summary": summary}


def figures(results: Results) -> dict[str, Any]:
    """Accuracy and macro AUROC on everybody's held-out patients; ``alone`` is the mean over hospitals."""
    found: dict[str, Any] = {"cases": results.final.pooled.cases if results.final.pooled else 0}
    shown = {"federated": [results.final.pooled], "central": [results.comparisons["central"].pooled]}
    local = results.comparisons.get("local")
    if local is not None:
        shown["alone"] = list(local.pooled_per_site.values())
        found["alone_own_accuracy"] = _mean([m.accuracy.value for m in local.per_site.values()])
    for name, metrics in shown.items():
        found[f"{name}_accuracy"] = _mean([m.accuracy.value for m in _present(metrics)])
        found[f"{name}_auroc"] = _mean([m.macro_auroc.value for m in _present(metrics)])
    return found


def _present(metrics: Sequence[Metrics | None]) -> list[Metrics]:
    return [m for m in metrics if m is not None]


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return statistics.mean(known) if known else float("nan")
