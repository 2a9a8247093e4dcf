"""A private study beside the same study without privacy, and beside each hospital alone with privacy.

Once as it stands, over epsilon, or over what of the network is trained. All figures are of everybody's
held-out patients.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import StudyError
from common.study import Study, parse_study
from server.results import Metrics, Results
from simulations.benchmarks.model_case import mean_of, spread
from simulations.federation import run_federation


def measure(
    study: Study, sites: Path, out: Path, seeds: Sequence[int], *, base: Path, rate: float | None = None
) -> dict[str, Any]:
    """Run ``study`` once a seed with its privacy and once without; figures of each run, and means and spreads.

    ``alone`` is the mean over hospitals. ``rate``: the learning rate without privacy, by default the study's own:
    gradients that are not clipped are longer, so its best one is another. Raises StudyError without privacy.
    """
    bare = _private(study).without_privacy().model_copy(update={"name": f"{study.name}-bare"})
    if rate is not None:
        bare = _with(bare, "training", bare.training.model_dump() | {"learning_rate": rate})
    runs = []
    for seed in seeds:
        started = time.monotonic()
        run = {"seed": seed, **_beside_alone(study, sites, out / f"private-{seed}", base=base, seed=seed)}
        without = run_federation(bare, sites, out / f"bare-{seed}", base=base, seed=seed)
        runs.append(run | _figures("without", without) | {"minutes": (time.monotonic() - started) / 60})
    return {"study": study.name, "digest": study.digest, "runs": runs, "summary": _summary(runs)}


def over_epsilon(study: Study, epsilons: Sequence[float]) -> dict[str, Study]:
    """``study`` with each epsilon in turn, by its name. Raises StudyError for one out of range."""
    settings = _private(study).privacy.model_dump()
    return {f"{value:g}": _with(study, "privacy", settings | {"epsilon": value}) for value in epsilons}


def over_trainable(study: Study, rates: Mapping[str, float]) -> dict[str, Study]:
    """``study`` with each part of the network trained, at the learning rate given with its name.

    Each needs a rate of its own: the more weights, the longer the noise beside the same clipped gradients.
    """
    parts = {}
    for name, rate in rates.items():
        part = _with(_private(study), "model", study.model.model_dump() | {"trainable": name})
        parts[name] = _with(part, "training", study.training.model_dump() | {"learning_rate": rate})
    return parts


def measure_each(
    studies: Mapping[str, Study], sites: Path, out: Path, seeds: Sequence[int], *, base: Path
) -> dict[str, Any]:
    """Each study once a seed, together and each hospital alone: per name the runs, their means and spreads."""
    found = {}
    for name, study in studies.items():
        runs = []
        for seed in seeds:
            folder = out / f"{study.name}-{name}-{seed}"
            runs.append({"seed": seed, **_beside_alone(study, sites, folder, base=base, seed=seed)})
        found[name] = {"digest": study.digest, "runs": runs, "summary": _summary(runs)}
    return found


def _private(study: Study) -> Study:
    if not study.privacy.on:
        raise StudyError(f"study '{study.name}' has privacy.unit 'off'", "Give a private study")
    return study


def _with(study: Study, section: str, settings: dict[str, Any]) -> Study:
    return parse_study(study.model_dump() | {section: settings}, study.name)


def _beside_alone(study: Study, sites: Path, out: Path, *, base: Path, seed: int) -> dict[str, float]:
    results = run_federation(study, sites, out, base=base, seed=seed, kinds=("local",))
    alone = list(results.comparisons["local"].pooled_per_site.values())
    return _figures("private", results) | _both("alone", alone)


def _figures(name: str, results: Results) -> dict[str, float]:
    return _both(name, [results.final.pooled])


def _both(name: str, metrics: Sequence[Metrics | None]) -> dict[str, float]:
    accuracy, auroc = mean_of(metrics, lambda m: m.accuracy), mean_of(metrics, lambda m: m.macro_auroc)
    return {f"{name}_accuracy": accuracy, f"{name}_auroc": auroc}


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    return {key: spread([run[key] for run in runs]) for key in runs[0] if key not in ("seed", "minutes")}
