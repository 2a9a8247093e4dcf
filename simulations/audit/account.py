"""The ledger against what was really done: rounds at a site whose budget is the study's claim, to the last bit.

A study of two rounds with the study's own epsilon is run at the synthetic hospital as a site runs it
(``participate``: policy, ledger, cohort, training, release), while a tracer counts the steps. What the ledger holds
must cost what those steps cost. Then the second round is asked for once more, as after a lost answer: the budget is
spent, so that it must be refused before a step is made.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from client.ingest.cohort import Cohort
from client.ledger import Ledger
from client.participation import participate
from client.received import Received
from client.site import PolicySettings, Site
from common.errors import BudgetExceeded
from common.messages import Request
from common.models.weights import initial_model
from common.privacy.accounting import epsilon
from common.privacy.events import SubsampledGaussian
from common.privacy.plan import PrivacyPlan, plan_for
from common.study import Study
from simulations.audit.checks import Check
from simulations.audit.shadow import everybody, with_policy
from simulations.audit.trace import StepTrace, traced

_ROUNDS, _MOST_STEPS = 2, 4
_SLACK = 1e-9  # of epsilon, relative: the ledger and this module add the same events


def short_study(study: Study) -> Study:
    """The study with two rounds of at most four steps; its noise follows, so that it still spends its whole epsilon."""
    training = study.training.model_copy(update={"local_steps": min(_MOST_STEPS, study.training.local_steps)})
    federation = study.federation.model_copy(update={"rounds": _ROUNDS})
    return study.model_copy(update={"training": training, "federation": federation})


def account_checks(study: Study, site: Site, cohort: Cohort) -> list[Check]:
    """Run the short study at ``site`` (a synthetic one, whose ledger it fills), and compare."""
    short = short_study(study)
    plan = plan_for(short)
    if plan is None:
        raise ValueError("a study without privacy has nothing to account")
    site = with_policy(site, PolicySettings(max_epsilon=plan.epsilon, max_delta=plan.delta, evaluation="withheld"))
    site.approve(short)
    done = [step for round_ in (1, 2) for step in _round(site, short, round_)]
    spent = Ledger(site.ledger_file).spent(site.config.cohort, plan.delta)
    refused, more = False, []
    try:
        more = _round(site, short, _ROUNDS)
    except BudgetExceeded:
        refused = True
    return [_charge(plan, done, spent), _refusal(plan, spent, len(more), refused), _units(done, everybody(cohort))]


def _round(site: Site, study: Study, round_: int) -> list[StepTrace]:
    request = Request(study=study.canonical_json(), round=round_, seed=0)
    with traced() as steps:
        participate(site, study, request, Received.whole(initial_model(study, seed=0), study), training=True)
    return steps


def _charge(plan: PrivacyPlan, done: list[StepTrace], spent: float) -> Check:
    cost = epsilon([SubsampledGaussian(plan.sigma, plan.sampling_rate, len(done))], plan.delta) if done else math.inf
    return Check(
        part="account",
        name="charge",
        rule="the ledger charges at least what the steps that were made cost, over all rounds together",
        passed=spent >= cost * (1 - _SLACK),
        found=f"{len(done)} steps in {_ROUNDS} rounds cost epsilon {cost:.4g} at delta {plan.delta:g}; the ledger says {spent:.4g}.",
        figures={"steps": len(done), "cost": cost, "charged": spent},
    )


def _refusal(plan: PrivacyPlan, spent: float, steps: int, refused: bool) -> Check:
    end = "was refused before any step" if refused else f"was NOT refused, and {steps} steps were made"
    return Check(
        part="account",
        name="refusal",
        rule="a round beyond the budget is refused before a patient is touched, a repeated one too",
        passed=refused and steps == 0,
        found=f"With {spent:.4g} of {plan.epsilon:g} spent, one round more {end}.",
        figures={"refused": refused, "steps": steps},
    )


def _units(done: list[StepTrace], truth: list[NDArray[np.intp]]) -> Check:
    whole = {tuple(sorted(int(i) for i in patient)) for patient in truth}
    units = [tuple(sorted(one)) for step in done for one in step.drawn]
    broken = sum(unit not in whole for unit in units)
    twice = sum(len(step.drawn) - len(set(step.drawn)) for step in done)
    return Check(
        part="account",
        name="unit",
        rule="what a step draws are whole patients, each once: never slices",
        passed=broken == 0 and twice == 0 and bool(done),
        found=f"Of {len(units)} drawn in {len(done)} steps, {broken} were not one whole patient and {twice} were there twice.",
        figures={"drawn": len(units), "broken": broken, "twice": twice},
    )
