"""Draws of patients: each one on its own, at the study's rate, as the account assumes.

Shuffling in batches of fixed size looks alike and is not: then one patient's being there changes who is drawn with whom, and
an account of Poisson sampling does not hold (Annamalai et al. 2024; Chua et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from client.training.local import train_round
from common.privacy.plan import PrivacyPlan
from common.study import Study
from simulations.audit.canaries import Canaries, LinearNetwork, plainly_released
from simulations.audit.checks import Check
from simulations.audit.noise import CHANCE
from simulations.audit.trace import known_secret, traced

PATIENTS, STEPS = 256, 64
SECRETS = 16  # rounds that are compared: their first step, since later ones take up where it ended


def draw_checks(study: Study, plan: PrivacyPlan) -> list[Check]:
    """Independence under a known secret, and the law of the draws under secret ones."""
    cohort = Canaries(PATIENTS)
    tables: list[list[NDArray[np.bool_]]] = [[], []]
    for secret in range(SECRETS):
        for table, count in zip(tables, (PATIENTS, PATIENTS - 1), strict=True):
            with known_secret(secret):
                table.append(drawn(study, plan, cohort, count, steps=1))
    law = _law(drawn(study, plan, cohort, PATIENTS, steps=STEPS), plan.sampling_rate)
    return [_independence(*map(np.concatenate, tables)), law]


def drawn(study: Study, plan: PrivacyPlan, cohort: Canaries, count: int, *, steps: int) -> NDArray[np.bool_]:
    """Who was drawn in each step [steps, count] of one round over the first ``count`` patients.

    A row is all False where something that is not one whole patient was drawn.
    """
    model = LinearNetwork(cohort.side, plan.clip)
    patients = cohort.patients[:count]
    place = {tuple(int(i) for i in patient): number for number, patient in enumerate(patients)}
    with traced() as made:
        train_round(model, cohort, patients, plainly_released(study), plan, round_=1, seed=0, steps=steps)
    table = np.zeros((steps, count), dtype=np.bool_)
    for row, step in zip(table, made, strict=False):
        if all(one in place for one in step.drawn):
            row[[place[one] for one in step.drawn]] = True
    return table


def _independence(everybody: NDArray[np.bool_], without_last: NDArray[np.bool_]) -> Check:
    changed = int((everybody[:, :-1] != without_last).sum())
    return Check(
        part="draws",
        name="neighbours",
        rule="one patient more changes nothing about who else is drawn",
        passed=changed == 0,
        found=f"Without the last patient, {changed} of {without_last.size} draws of the {PATIENTS - 1} others came out differently.",
        figures={"changed": changed, "draws": int(without_last.size)},
    )


def _law(table: NDArray[np.bool_], rate: float) -> Check:
    """Number drawn in all, spread of the numbers drawn in a step, and overlap of a step with the next."""
    steps, count = table.shape
    sizes = table.sum(axis=1)
    overlap = int((table[:-1] & table[1:]).sum())
    chances = {
        "rate": _two_sided(int(table.sum()), steps * count, rate),
        "overlap": _two_sided(overlap, (steps - 1) * count, rate * rate),
        "spread": _spread(sizes, count, rate),
    }
    return Check(
        part="draws",
        name="law",
        rule=f"each patient is drawn with chance {rate:g} in each step, independently",
        passed=min(chances.values()) > CHANCE,
        found=(
            f"A step drew {sizes.mean():.1f} of {count} patients, with a standard deviation of {sizes.std():.1f}; expected "
            f"{count * rate:.1f} and {(count * rate * (1 - rate)) ** 0.5:.1f}. "
            f"{overlap} were drawn again in the next step; expected {(steps - 1) * count * rate**2:.0f}."
        ),
        figures={"mean": float(sizes.mean()), "std": float(sizes.std()), "overlap": overlap, "chances": chances},
    )


def _two_sided(successes: int, trials: int, chance: float) -> float:
    return float(stats.binomtest(successes, trials, chance).pvalue)


def _spread(sizes: Sequence[int] | NDArray[np.int64], count: int, rate: float) -> float:
    """Two-sided chance of the dispersion of binomial numbers; 1 where all are drawn."""
    if rate == 1:
        return 1.0
    index = float(np.square(np.asarray(sizes) - count * rate).sum() / (count * rate * (1 - rate)))
    law = stats.chi2(len(sizes))
    return float(min(1.0, 2 * min(law.cdf(index), law.sf(index))))
