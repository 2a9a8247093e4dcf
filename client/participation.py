"""What a site does when it is asked: the order of checks, charges, work and release.

1. policy: is this study approved, within the site's limits, and is now the time? does the model fit? (no data touched)
2. ledger: reserve the whole round and any noised evaluation, durably; refused beyond the budget
3. the audit log notes that a round was begun; the cohort is opened, the received model evaluated and trained, and only then
4. weights that stay at the site are kept; the release goes on ledger and audit log, and is sent.

A crash after 2 leaves the charge standing; a repeated round is charged again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.audit_log import AuditLog
from client.budget import study_charges
from client.ingest.cohort import Cohort, open_cohort
from client.ledger import Ledger
from client.policy import EvaluationRelease, check_moment, check_study, evaluation_event, release_evaluation
from client.received import Received, keep_local, network
from client.site import PolicySettings, Site
from client.training.evaluate import Decisions, decide
from client.training.local import train_round
from common.errors import BudgetExceeded, DataError
from common.messages import Reply, Request
from common.metrics import l2_sensitivity
from common.models import parts
from common.models.parts import Vector
from common.models.resnet import Network
from common.privacy.events import Event
from common.privacy.plan import PrivacyPlan, plan_for, round_events
from common.study import Study
from common.subgroups import BANDS
from common.wire import pack

_BEGUN = "round"


def local_now() -> datetime:
    """The time of day at the site, with its zone."""
    return datetime.now().astimezone()


@dataclass(frozen=True)
class Answer:
    """A reply and, after training, the update: change of the shared weights as it travels (``common.wire``)."""

    reply: Reply
    update: NDArray[Any] | None


def readiness(site: Site, study: Study, round_: int = 1) -> None:
    """Raise what would refuse this study today, whose next round is ``round_``: policy, budget, or the cohort.

    The budget is asked for all rounds to come, so that it is refused now rather than part-way. Once the study has been
    charged here it is asked for the next round alone: a repeated round has cost what a last one may lack, and each
    round until then still helps.
    """
    policy, cohort_name = site.config.policy, site.config.cohort
    check_study(study, policy, approved=site.is_approved(study), round_=round_)
    if study_charges(study, policy, 1):
        ledger = Ledger(site.ledger_file)
        rounds = 1 if ledger.rounds_charged(cohort_name, study.digest) else study.federation.rounds - round_ + 1
        total = ledger.forecast(cohort_name, study_charges(study, policy, rounds), policy.max_delta)
        if not total <= policy.max_epsilon:
            raise BudgetExceeded(
                f"{rounds} more rounds of study '{study.name}' would bring cohort '{cohort_name}' to epsilon "
                f"{total:.4g}; policy.max_epsilon is {policy.max_epsilon:g} at delta {policy.max_delta:g}",
                "Agree on fewer rounds or a smaller epsilon, or raise max_epsilon in site.toml",
            )
    cohort = open_cohort(site, study)
    if not cohort.training_patients():
        raise DataError(f"the cohort of study '{study.name}' has no training patient", "Add patients")


def participate(
    site: Site,
    study: Study,
    request: Request,
    received: Received,
    *,
    training: bool,
    clock: Callable[[], datetime] = local_now,
) -> Answer:
    """Take part in one round of ``study`` with the model ``received``. ``clock``: the site's time of day.

    Raises PolicyRefusal or BudgetExceeded before data are touched, DataError when the cohort can't
    be used or the weights don't fit. The reply carries only what the site's policy lets go.
    """
    policy = site.config.policy
    check_study(study, policy, approved=site.is_approved(study), round_=request.round)
    audit = AuditLog(site.audit_file, clock)
    check_moment(policy, begun_rounds(audit), clock())
    plan = plan_for(study)
    model = network(site, study, received)
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
    audit.append(_BEGUN, {"study": study.digest, "round": request.round, "training": training})
    cohort = open_cohort(site, study)
    release = _evaluate(site, study, model, cohort, final=not training) if evaluating else EvaluationRelease("none")
    update, exponent = None, 0
    if training:
        change = _train(study, request, model, received, cohort, plan)
        keep_local(site, study, model)
        update, exponent = pack(change, study.federation.wire)
    _enter(site, study, request, ledger, audit, reservation, release, update)
    return Answer(_reply(site, study, request, ledger, release, exponent), update)


def begun_rounds(audit: AuditLog) -> list[datetime]:
    """When rounds were begun here, oldest first."""
    return [datetime.fromisoformat(entry.time) for entry in audit.read() if entry.kind == _BEGUN]


def released_groups(
    decisions: Decisions, cohort: Cohort, study: Study, policy: PolicySettings
) -> dict[str, NDArray[np.float64]]:
    """Confusion matrices [bands, C, C] by attribute: those that the study asks for, the policy permits and ingest kept.

    Where counts leave exactly: bands of fewer than ``subgroup_minimum`` held-out patients are added to "not stated", and
    an attribute of which that leaves too few is left out, since a total less the others would tell them.
    """
    table = cohort.subgroups
    kept = () if table is None else table.dtype.names or ()
    found: dict[str, NDArray[np.float64]] = {}
    for name in study.evaluation.subgroups:
        if table is None or name not in kept or name not in policy.subgroups:
            continue
        bands, count = table[name][cohort.held_out].copy(), len(BANDS[name])
        if policy.evaluation == "exact":
            sizes = np.bincount(bands, minlength=count)
            bands[np.isin(bands, np.flatnonzero(sizes < policy.subgroup_minimum))] = 0
            if 0 < (bands == 0).sum() < policy.subgroup_minimum:
                continue
        found[name] = decisions.confusions(bands, count)
    return found


def _evaluate(site: Site, study: Study, model: Network, cohort: Cohort, *, final: bool) -> EvaluationRelease:
    """Counts over held-out patients as the policy lets them go; nothing is computed when withheld. ``final``: of the
    final model, whose counts may be broken down.
    """
    policy = site.config.policy
    if policy.evaluation == "withheld":
        return EvaluationRelease("withheld")
    decisions = decide(model, cohort, cohort.holdout_patients(), study)
    counts = decisions.counts(study.evaluation.score_bins).to_vector()
    groups = released_groups(decisions, cohort, study, policy) if final else {}
    vector = np.concatenate([counts, *(group.ravel() for group in groups.values())])
    # Each break-down adds at most 1 for a patient, who is in one of its bands.
    sensitivity = math.sqrt(l2_sensitivity(len(study.task.classes)) ** 2 + len(groups))
    return replace(release_evaluation(vector, sensitivity, policy), subgroups=tuple(groups))


def _train(
    study: Study,
    request: Request,
    model: Network,
    received: Received,
    cohort: Cohort,
    plan: PrivacyPlan | None,
) -> Vector:
    """Train the model in place, which holds the weights received; the change of its shared weights."""
    train_round(
        model,
        cohort,
        cohort.training_patients(),
        study,
        plan,
        round_=request.round,
        seed=request.seed,
        correction=received.correction,
    )
    change = parts.read(parts.shared(model, study))
    change -= received.shared
    return change


def _enter(
    site: Site,
    study: Study,
    request: Request,
    ledger: Ledger,
    audit: AuditLog,
    reservation: int | None,
    release: EvaluationRelease,
    update: NDArray[Any] | None,
) -> None:
    """Put the release on the ledger and the audit log before it is sent."""
    what = f"update {0 if update is None else update.nbytes} bytes, evaluation {release.mode}"
    if reservation is not None:
        ledger.commit(reservation)
        ledger.release(reservation, what)
    else:
        ledger.release_uncharged(cohort=site.config.cohort, study_digest=study.digest, round_=request.round, what=what)
    audit.append(
        "release",
        {
            "study": study.digest,
            "round": request.round,
            "update_bytes": 0 if update is None else update.nbytes,
            "private": study.privacy.on,
            "evaluation": release.mode,
            **({"subgroups": ",".join(release.subgroups)} if release.subgroups else {}),
        },
    )


def _reply(
    site: Site, study: Study, request: Request, ledger: Ledger, release: EvaluationRelease, exponent: int
) -> Reply:
    delta = study.privacy.delta
    return Reply(
        site=site.name,
        study_digest=study.digest,
        round=request.round,
        status="ok",
        evaluation=release.mode,
        counts=b"" if release.counts is None else release.counts.astype("<f8").tobytes(),
        subgroups=",".join(release.subgroups),
        counts_std=release.std,
        exponent=exponent,
        epsilon=0.0 if delta is None else ledger.spent_by_study(site.config.cohort, study.digest, delta),
    )
