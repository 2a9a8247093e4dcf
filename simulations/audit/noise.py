"""The noise of the study's own steps: as loud as claimed, and never the same twice.

Over empty draws a release is noise alone. Four of them, in two rounds of two steps, show how loud it is, and
whether any run of numbers comes back: in another parameter, another step or another round. Somebody who finds
noise used twice subtracts one release from the other and has the patients without noise.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from client.training.local import train_round
from common.models.weights import initial_model
from common.privacy.events import MIN_RATE
from common.privacy.plan import PrivacyPlan
from common.study import Study
from simulations.audit.canaries import plainly_released
from simulations.audit.checks import Check
from simulations.audit.shadow import Held
from simulations.audit.trace import traced

RUN = 8  # numbers in a row; noise lies on a grid, so that one number alone comes back by chance
ROUNDS = STEPS = 2
CHANCE = 1e-6  # of failing a mechanism that is right


def noise_checks(study: Study, plan: PrivacyPlan, cohort: Held) -> list[Check]:
    """Loudness and freshness of what is released when nobody was drawn."""
    releases = noise_alone(study, plan, cohort)
    return [_loudness(releases, plan), _freshness(releases)]


def noise_alone(study: Study, plan: PrivacyPlan, cohort: Held) -> list[list[NDArray[np.float32]]]:
    """What two rounds of two steps release of empty draws: a list of parameters for each step."""
    nobody = dataclasses.replace(plan, sampling_rate=MIN_RATE)
    study = plainly_released(study)
    model = initial_model(study, seed=0)
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    releases = []
    for round_ in range(1, ROUNDS + 1):
        with traced() as steps:
            train_round(model, cohort, cohort.patients, study, nobody, round_=round_, seed=0, steps=STEPS)
        found = [one.release for one in steps if one.release is not None and not one.drawn]
        releases += [[part.numpy() for part in torch.split(release, sizes)] for release in found]
    return releases


def _loudness(releases: list[list[NDArray[np.float32]]], plan: PrivacyPlan) -> Check:
    """One-sided: louder noise than claimed harms nobody's privacy."""
    unit = plan.clip / plan.denominator
    values = [part.astype(np.float64) / unit for release in releases for part in release]
    count = sum(map(len, values))
    squares = sum(float(np.square(part).sum()) for part in values)
    chance = float(stats.chi2(count).cdf(squares / plan.sigma**2)) if count else 0.0
    found = (squares / count) ** 0.5 if count else 0.0
    return Check(
        part="noise",
        name="loudness",
        rule=f"noise has a standard deviation of at least {plan.sigma:.4g} clips, as the claim needs",
        passed=chance > CHANCE,
        found=f"{count} numbers of noise have {found:.4g} (chance of so little: {_chance(chance)}).",
        figures={"planned": plan.sigma, "found": found, "numbers": count, "chance": chance},
    )


def _freshness(releases: list[list[NDArray[np.float32]]]) -> Check:
    runs = [part[: len(part) // RUN * RUN].reshape(-1, RUN) for release in releases for part in release]
    table = np.ascontiguousarray(np.concatenate(runs)) if runs else np.empty((0, RUN), np.float32)
    repeated = len(table) - len(np.unique(table.view(f"V{table.dtype.itemsize * RUN}")))
    complete = len(releases) == ROUNDS * STEPS
    return Check(
        part="noise",
        name="freshness",
        rule="no noise is used twice: not in two parameters, steps or rounds",
        passed=complete and repeated == 0,
        found=(
            f"{repeated} of {len(table)} runs of {RUN} numbers came back in {len(releases)} steps of {ROUNDS} rounds."
            + ("" if complete else f" Expected {ROUNDS * STEPS} steps with an empty draw.")
        ),
        figures={"runs": len(table), "repeated": repeated, "steps": len(releases)},
    )


def _chance(value: float) -> str:
    return f"{value:.2g}" if value >= CHANCE else f"under {CHANCE:g}"
