"""Replay: the same round over a cohort and over its neighbours, under one known secret.

Two cohorts are neighbours when one patient is in the one and not in the other. A step's sum of clipped gradients may
differ by the clip at most, whoever the patient is, and what the code does may not differ at all. The study's own
network, views and clip are used, on synthetic patients and on some made to do harm.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import client.training.dp_step as production
from client.training.local import train_round
from common.models.weights import initial_model
from common.privacy.events import MIN_RATE
from common.privacy.plan import PrivacyPlan
from common.study import Study
from simulations.audit.checks import Check
from simulations.audit.shadow import Held
from simulations.audit.trace import StepTrace, known_secret, traced

TOLERANCE = 1e-3  # of the clip: the difference of two float32 sums over batches of other sizes
Patients = Sequence[NDArray[np.intp]]


def replay_checks(
    study: Study, plan: PrivacyPlan, cohort: Held, progress: Callable[[int, int], None] = lambda _done, _total: None
) -> list[Check]:
    """Distances and control flow, with a step's patients in one piece and each in a micro-batch of its own."""
    start, count = initial_model(study, seed=0), len(cohort.patients)

    def step(patients: Patients, rate: float = 1.0) -> StepTrace | None:  # at rate 1 who is left out would be drawn
        return one_step(start, study, dataclasses.replace(plan, sampling_rate=rate), cohort, patients)

    pieces: list[list[StepTrace | None]] = []
    step(cohort.patients[:1])  # caches fill up before anything is compared
    for number, memory in enumerate((production.ACTIVATION_MEMORY, 1)):
        with mock.patch.object(production, "ACTIVATION_MEMORY", memory):
            traces = [step(cohort.patients)]
            for left_out in range(count):
                traces.append(step([p for i, p in enumerate(cohort.patients) if i != left_out]))
                progress(number * count + left_out + 1, 2 * count)
        pieces.append(traces)
    nobody = step(cohort.patients, MIN_RATE)
    return [_distance_check(plan, pieces), _flow_check([*pieces[0], nobody], pieces[1])]


def one_step(start: nn.Module, study: Study, plan: PrivacyPlan, cohort: Held, patients: Patients) -> StepTrace | None:
    """The first private step of a round from ``start``, which stays as it is, under a known secret; None if there was none."""
    model = copy.deepcopy(start)
    with known_secret(0), traced() as steps:
        train_round(model, cohort, patients, study, plan, round_=1, seed=0, steps=1)
    return steps[0] if len(steps) == 1 else None


def _distance_check(plan: PrivacyPlan, pieces: list[list[StepTrace | None]]) -> Check:
    distances = [distance(traces[0], one) / plan.clip for traces in pieces for one in traces[1:]]
    largest = max(distances, default=float("inf"))
    return Check(
        part="replay",
        name="distance of neighbours",
        rule="without one patient, a step's sum of clipped gradients moves by at most the clip",
        passed=bool(largest <= 1 + TOLERANCE),
        found=(
            f"{len(distances)} patients were left out, one at a time. The sum moved by at most {largest:.4f} times the "
            f"clip of {plan.clip:g} (float32: {TOLERANCE:g} above is allowed)."
        ),
        figures={"largest": largest, "distances": distances, "clip": plan.clip, "tolerance": TOLERANCE},
    )


def distance(one: StepTrace | None, other: StepTrace | None) -> float:
    """L2 distance of two steps' sums before noise; infinite if either was not seen."""
    if one is None or other is None or one.total is None or other.total is None:
        return float("inf")
    return float(torch.linalg.vector_norm(one.total.double() - other.total.double()))


def _flow_check(whole: list[StepTrace | None], split: list[StepTrace | None]) -> Check:
    """In one piece all is equal, an empty draw included; in micro-batches their number follows the patients."""
    seen = [one for one in (*whole, *split) if one is not None]
    same = len(seen) == len(whole) + len(split) and len({one.path for one in seen if one.micro_batches == 1}) == 1
    outcomes: dict[str, Any] = {
        "noise_draws": sorted({one.noise_draws for one in seen}),
        "updates": sorted({one.updates for one in seen}),
        "micro_batches": sorted({one.micro_batches for one in seen}),
        "functions": len(seen[0].calls) if seen else 0,
    }
    once = len(outcomes["noise_draws"]) == 1 and outcomes["updates"] == [1] and outcomes["noise_draws"] != [0]
    return Check(
        part="replay",
        name="control flow",
        rule="a step does the same whoever is in the cohort: same functions, one noise a parameter, one update",
        passed=bool(same and once),
        found=(
            f"{len(seen)} steps entered {'the same' if same else 'NOT the same'} {outcomes['functions']} functions; noise "
            f"was added to {_list(outcomes['noise_draws'])} parameters and the optimizer called "
            f"{_list(outcomes['updates'])} times a step, with {_list(outcomes['micro_batches'])} micro-batches."
        ),
        figures=outcomes,
    )


def _list(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) if len(values) <= 3 else f"{values[0]} to {values[-1]}"
