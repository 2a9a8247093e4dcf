"""What a site does when it is asked: the order of checks, charges, work and release.

1. policy: is this study approved and within the site's limits? (no data touched)
2. ledger: reserve the whole round and any noised evaluation, durably; refused beyond the budget
3. the cohort is opened, the received model evaluated and trained, and only then
4. the release goes on ledger and audit log, and is sent.

A crash after 2 leaves the charge standing; a repeated round is charged again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import nn

from client.audit_log import AuditLog
from client.budget import whole_study_events
from client.ingest.cohort import Cohort, open_cohort
from client.ledger import Ledger
from client.policy import EvaluationRelease, check_study, evaluation_event, release_evaluation
from client.site import Site
from client.training.evaluate import evaluate
from client.training.local import train_round
from common.errors import BudgetExceeded, DataError
from common.messages import Reply, Request
from common.metrics import l2_sensitivity
from common.models.resnet import empty_model
from common.models.weights import Vector, load_vector, to_vector
from common.privacy.events import Event
from common.privacy.plan import PrivacyPlan, plan_for, round_events
from common.study import Study


@dataclass(frozen=True)
class Answer:
    """A reply and, after training, the update: float32 change of the trainable weights."""

    reply: Reply
    update: Vector | None


def readiness(site: Site, study: Study) -> None:
    """Raise what would refuse this study today: policy, budget for all its rounds, or the cohort.

    The budget is asked for the whole study, so that it is refused now rather than part-way.
    """
    policy = site.config.policy
    check_study(study, policy, approved=site.is_approved(study), round_=1)
    whole = whole_study_events(study, policy)
    if whole:
        total = Ledger(site.ledger_file).forecast(site.config.cohort, whole, policy.max_delta)
        if not total <= policy.max_epsilon:
            raise BudgetExceeded(
                f"study '{study.name}' would bring cohort '{site.config.cohort}' to epsilon {total:.4g}; "
                f"policy.max_epsilon is {policy.max_epsilon:g} at delta {policy.max_delta:g}",
                "Agree on fewer rounds or a smaller epsilon, or raise max_epsilon in site.toml",
            )
    cohort = open_cohort(site, study)
    if not cohort.training_patients():
        raise DataError(f"the cohort of study '{study.name}' has no training patient", "Add patients")


def participate(site: Site, study: Study, request: Request, weights: Vector, *, training: bool) -> Answer:
    """Take part in one round of ``study`` with the received ``weights``.

    Raises PolicyRefusal or BudgetExceeded before data are touched, DataError when the cohort can't
    be used or the weights don't fit. The reply carries only what the site's policy lets go.
    """
    policy = site.config.policy
    check_study(study, policy, approved=site.is_approved(study), round_=request.round)
    plan = plan_for(study)
    model = _received(study, weights)
    evaluating = not training or study.evaluates_in(request.round)
    events: list[Event] = [*round_events(plan)] if training and plan else []
    charge = evaluation_event(policy) if evaluating else None
    if charge:
        events.append(charge)
    ledger = Ledger(site.ledger_file)
    reservation = None
    if events:
        reservation = ledger.reserve(
            cohort=site.config.cohort,
            study_digest=study.digest,
            round_=request.round,
            events=events,
            max_epsilon=policy.max_epsilon,
            max_delta=policy.max_delta,
        )
    cohort = open_cohort(site, study)
    release = _evaluate(site, study, model, cohort) if evaluating else EvaluationRelease("none")
    update = _train(study, request, model, cohort, plan) if training else None
    _enter(site, study, request, ledger, reservation, release, update)
    return Answer(_reply(site, study, request, ledger, release), update)


def _received(study: Study, weights: Vector) -> nn.Module:
    model = empty_model(study)
    try:
        load_vector(model, weights)
    except ValueError as error:
        raise DataError(f"the received model does not fit study '{study.name}': {error}") from None
    if not np.isfinite(weights).all():
        raise DataError(f"the received model of study '{study.name}' is not finite")
    return model


def _evaluate(site: Site, study: Study, model: nn.Module, cohort: Cohort) -> EvaluationRelease:
    """Counts over held-out patients as the policy lets them go; nothing is computed when withheld."""
    policy = site.config.policy
    if policy.evaluation == "withheld":
        return EvaluationRelease("withheld")
    counts = evaluate(model, cohort, cohort.holdout_patients(), study)
    return release_evaluation(counts.to_vector(), l2_sensitivity(len(study.task.classes)), policy)


def _train(study: Study, request: Request, model: nn.Module, cohort: Cohort, plan: PrivacyPlan | None) -> Vector:
    before = to_vector(model, trainable_only=True)
    train_round(model, cohort, cohort.training_patients(), study, plan, round_=request.round, seed=request.seed)
    return to_vector(model, trainable_only=True) - before


def _enter(
    site: Site,
    study: Study,
    request: Request,
    ledger: Ledger,
    reservation: int | None,
    release: EvaluationRelease,
    update: Vector | None,
) -> None:
    """Put the release on the ledger and the audit log before it is sent."""
    what = f"update {0 if update is None else update.nbytes} bytes, evaluation {release.mode}"
    if reservation is not None:
        ledger.commit(reservation)
        ledger.release(reservation, what)
    else:
        ledger.release_uncharged(cohort=site.config.cohort, study_digest=study.digest, round_=request.round, what=what)
    AuditLog(site.audit_file).append(
        "release",
        {
            "study": study.digest,
            "round": request.round,
            "update_bytes": 0 if update is None else update.nbytes,
            "private": study.privacy.on,
            "evaluation": release.mode,
        },
    )


def _reply(site: Site, study: Study, request: Request, ledger: Ledger, release: EvaluationRelease) -> Reply:
    delta = study.privacy.delta
    return Reply(
        site=site.name,
        study_digest=study.digest,
        round=request.round,
        status="ok",
        evaluation=release.mode,
        counts=b"" if release.counts is None else release.counts.astype("<f8").tobytes(),
        counts_std=release.std,
        epsilon=0.0 if delta is None else ledger.spent_by_study(site.config.cohort, study.digest, delta),
    )
