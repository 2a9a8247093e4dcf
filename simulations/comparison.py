"""What the same study gives without federation: each hospital alone, and all data in one place.

Like for like: the same network, start, learning rate, number of passes over the patients and
privacy mechanism. *Local*: a hospital makes the study's steps on its own patients. *Central*: the
patients of all N hospitals are pooled; without privacy N times as many steps of the same size, with
privacy the same number of steps and an N times larger batch, so that a patient's privacy is the same.
These baselines exist in simulation only, where one researcher holds all the data: nothing is
released by a site, so no ledger is charged.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from client.ingest.cohort import Cohort, open_cohort
from client.site import Site
from client.training.local import train_round
from common.children import begin_child
from common.metrics import Counts
from common.models.weights import initial_model
from common.privacy.plan import plan_for
from common.study import Study
from server.evaluation import evaluate
from server.results import Comparison, Metrics
from simulations.compare.judgements import Judgement

LOCAL = "each hospital alone: same network, same steps, own patients only"
CENTRAL = "all patients in one place: same network, same number of passes over the pooled patients"
Progress = Callable[[int, int], None]

_done: Synchronized[int]


class Pooled:
    """Several cohorts as one; satisfies ``client.training.local.Examples``."""

    def __init__(self, cohorts: Sequence[Cohort]) -> None:
        self._cohorts = cohorts
        self._starts = np.cumsum([0, *(len(c.labels) for c in cohorts)])
        self.labels = np.concatenate([c.labels for c in cohorts])

    def training_patients(self) -> list[NDArray[np.intp]]:
        """Example indices of every training patient of every cohort."""
        return [p + start for c, start in zip(self._cohorts, self._starts, strict=False) for p in c.training_patients()]

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, channels, size, size]."""
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        first = self._cohorts[0].pixels(np.empty(0, dtype=np.intp))
        result = np.empty((len(indices), *first.shape[1:]), dtype=np.uint8)
        for number, cohort in enumerate(self._cohorts):
            rows = np.flatnonzero(owner == number)
            if len(rows):
                result[rows] = cohort.pixels(indices[rows] - self._starts[number])
        return result


@dataclass(frozen=True)
class _Job:
    study: Study
    train_on: tuple[Site, ...]
    test_on: tuple[Site, ...]
    seed: int
    weights: Path | None


@dataclass(frozen=True)
class Compared:
    """By kind: the figures, and what the model of each kind said of every hospital's own patients, by hospital."""

    comparisons: dict[str, Comparison]
    judgements: dict[str, dict[str, Judgement]]


def compare(
    study: Study, sites: Sequence[Site], kinds: Sequence[str], seed: int, weights: Path | None, progress: Progress
) -> Compared:
    """Train and evaluate the comparisons on all cores."""
    everyone = tuple(sites)
    jobs: dict[str, _Job] = {}
    if "central" in kinds:  # the longest first
        jobs["central"] = _Job(study, everyone, everyone, seed, weights)
    if "local" in kinds:
        jobs |= {f"local:{site.name}": _Job(study, (site,), everyone, seed, weights) for site in sites}
    judged = _run(jobs, progress)
    counts = {
        name: {site: found.counts(study.evaluation.score_bins) for site, found in by_site.items()}
        for name, by_site in judged.items()
    }
    classes = study.task.classes
    result: dict[str, Comparison] = {}
    said: dict[str, dict[str, Judgement]] = {}
    if "local" in kinds:
        own = {site.name: evaluate(counts[f"local:{site.name}"][site.name], classes) for site in sites}
        pooled = {site.name: _pooled(counts[f"local:{site.name}"], study) for site in sites}
        said["local"] = {site.name: judged[f"local:{site.name}"][site.name] for site in sites}
        result["local"] = Comparison(kind="local", description=LOCAL, per_site=own, pooled_per_site=pooled)
    if "central" in kinds:
        said["central"] = judged["central"]
        per_site = {name: evaluate(value, classes) for name, value in counts["central"].items()}
        result["central"] = Comparison(
            kind="central", description=CENTRAL, pooled=_pooled(counts["central"], study), per_site=per_site
        )
    return Compared(result, said)


def _pooled(counts: dict[str, Counts], study: Study) -> Metrics:
    zero = Counts.zero(len(study.task.classes), study.evaluation.score_bins)
    return evaluate(sum(counts.values(), start=zero), study.task.classes)


def _run(jobs: dict[str, _Job], progress: Progress) -> dict[str, dict[str, Judgement]]:
    context = multiprocessing.get_context("spawn")
    done: Synchronized[int] = context.Value("q", 0)
    total = sum(_steps(job) * job.study.federation.rounds for job in jobs.values())
    workers = min(os.cpu_count() or 1, len(jobs))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(done,)) as pool:
        futures: dict[str, Future[dict[str, Judgement]]] = {
            name: pool.submit(_train, job) for name, job in jobs.items()
        }
        try:
            while not all(future.done() for future in futures.values()):
                progress(min(done.value, total - 1), total)
                time.sleep(0.2)
        except BaseException:
            for process in list((pool._processes or {}).values()):  # noqa: SLF001 - the pool has no kill before 3.14
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    progress(total, total)
    return {name: future.result() for name, future in futures.items()}


def _start_worker(done: Synchronized[int]) -> None:
    global _done  # noqa: PLW0603 - a shared counter reaches a spawned worker only this way
    begin_child()
    _done = done
    torch.set_num_threads(1)


def _steps(job: _Job) -> int:
    """Steps a round: N times as many for the pool, unless privacy makes its batches larger instead."""
    return job.study.training.local_steps * (1 if job.study.privacy.on else len(job.train_on))


def _train(job: _Job) -> dict[str, Judgement]:
    """Train one comparison model, which nothing pulls to a global one; what it says of each site's held-out patients."""
    alone = job.study.federation.model_copy(update={"strategy": "fedavg", "proximal_mu": None})
    study, sites = job.study.model_copy(update={"federation": alone}), len(job.train_on)
    pool = Pooled([open_cohort(site, study) for site in job.train_on])
    plan = plan_for(study)
    if plan is not None:
        plan = dataclasses.replace(plan, denominator=plan.denominator * sites)
    model = initial_model(study, job.seed, job.weights)
    patients = pool.training_patients()

    def tick() -> None:
        with _done.get_lock():
            _done.value += 1

    for round_ in range(1, study.federation.rounds + 1):
        train_round(
            model, pool, patients, study, plan, round_=round_, seed=job.seed, steps=_steps(job), after_step=tick
        )
    return {site.name: Judgement.of(model, open_cohort(site, study), study) for site in job.test_on}
