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
    """Run ``study`` once a seed with both comparisons; figures of each run, and their mean and spread."""
    runs = []
    for seed in seeds:
        started = time.monotonic()
        results = run_federation(study, sites, out / f"seed-{seed}", base=base, seed=seed, kinds=("local", "central"))
        runs.append({"seed": seed, "minutes": (time.monotonic() - started) / 60, **figures(results)})
    keys = [key for key, value in runs[0].items() if isinstance(value, float)]
    summary = {
        key: {
            "mean": statistics.mean(run[key] for run in runs),
            "sd": statistics.stdev(run[key] for run in runs) if len(runs) > 1 else None,
        }
        for key in keys
    }
    return {"study": study.name, "digest": study.digest, "runs": runs, "summary": summary}


def figures(results: Results) -> dict[str, Any]:
    """Accuracy and macro AUROC on everybody's held-out patients; ``alone`` is the mean over hospitals."""
    local, central = results.comparisons["local"], results.comparisons["central"]
    alone = list(local.pooled_per_site.values())
    found: dict[str, Any] = {"cases": results.final.pooled.cases if results.final.pooled else 0}
    for name, metrics in (("federated", [results.final.pooled]), ("central", [central.pooled]), ("alone", alone)):
        found[f"{name}_accuracy"] = _mean([m.accuracy.value for m in _present(metrics)])
        found[f"{name}_auroc"] = _mean([m.macro_auroc.value for m in _present(metrics)])
    found["alone_own_accuracy"] = _mean([m.accuracy.value for m in local.per_site.values()])
    return found


def _present(metrics: Sequence[Metrics | None]) -> list[Metrics]:
    return [m for m in metrics if m is not None]


def _mean(values: Sequence[float | None]) -> float:
    known = [v for v in values if v is not None]
    return statistics.mean(known) if known else float("nan")
