"""The model case: one study, several seeds, federated beside central training and each hospital alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.study import Study
from server.results import Estimate, Metrics, Results
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
        summary[key] = spread([run[key] for run in runs if key in run])
    return {"study": study.name, "digest": study.digest, "runs": runs, "summary": summary}


def spread(values: list[float]) -> dict[str, float | None]:
    """Mean and standard deviation of one figure over runs; None for the latter of a single one."""
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def figures(results: Results) -> dict[str, Any]:
    """Accuracy and macro AUROC on everybody's held-out patients; ``alone`` is the mean over hospitals."""
    found: dict[str, Any] = {"cases": results.final.pooled.cases if results.final.pooled else 0}
    shown = {"federated": [results.final.pooled], "central": [results.comparisons["central"].pooled]}
    local = results.comparisons.get("local")
    if local is not None:
        shown["alone"] = list(local.pooled_per_site.values())
        found["alone_own_accuracy"] = mean_of(list(local.per_site.values()), lambda m: m.accuracy)
    for name, metrics in shown.items():
        found[f"{name}_accuracy"] = mean_of(metrics, lambda m: m.accuracy)
        found[f"{name}_auroc"] = mean_of(metrics, lambda m: m.macro_auroc)
    return found


def mean_of(metrics: Sequence[Metrics | None], which: Callable[[Metrics], Estimate]) -> float:
    """The mean of one figure over those that have it, NaN if none has."""
    known = [value for m in metrics if m is not None and (value := which(m).value) is not None]
    return statistics.mean(known) if known else float("nan")
