"""The privacy budget in figures: what is spent, by which study, and what a study would cost.

All epsilons are per patient, add or remove one, by PLD, at the site's ``max_delta``; those named ``rdp``
are the cross-check by Renyi DP, which is looser. Epsilons of studies don't add up to that of the cohort:
composing costs less than the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from client.ledger import Entry, Ledger, charged
from client.policy import check_study, evaluation_event
from client.site import PolicySettings, Site
from common.errors import PolicyRefusal, StudyError
from common.privacy.accounting import epsilon, epsilon_rdp
from common.privacy.events import Event, Gaussian, SubsampledGaussian
from common.privacy.plan import plan_for, round_events
from common.study import Study, study_from_json

MOST_ROUNDS = 10_000  # that a study can have


@dataclass(frozen=True)
class StudySpending:
    """What one study was charged on one cohort.

    ``name``: as in the approved study, "" when there is no approval. ``rounds``: the round of each
    charge in order, a retried one twice. ``steps`` of training and ``evaluations`` with noise.
    ``refused``: charges refused. ``epsilon``: of this study alone.
    """

    digest: str
    name: str
    rounds: tuple[int, ...]
    steps: int
    evaluations: int
    refused: int
    epsilon: float


@dataclass(frozen=True)
class CohortSpending:
    """What was spent on a cohort by all studies together, and by each."""

    cohort: str
    epsilon: float
    epsilon_rdp: float
    studies: tuple[StudySpending, ...]


@dataclass(frozen=True)
class Forecast:
    """What a study would cost at a site, asked before its approval.

    ``spent`` before it; ``training`` and ``whole`` (with its noised ``evaluations``) alone; ``after`` all
    its ``rounds`` on top of what is spent. ``charges``: how many it has already. ``rounds_left``:
    how many rounds like its own, with their evaluations, the budget still takes; at most 10,000, None if
    they cost nothing. ``folds``: 1, or those of the cross-validation that it is a part of, and ``after_folds`` the
    epsilon after all of them: most patients train each. ``refusal``: why the site's policy would refuse it, "" if it would not.
    """

    cohort: str
    max_epsilon: float
    delta: float
    spent: float
    training: float
    evaluations: int
    whole: float
    after: float
    after_rdp: float
    rounds: int
    charges: int
    rounds_left: int | None
    folds: int
    after_folds: float
    approved: bool
    refusal: str

    @property
    def fits(self) -> bool:
        """Whether the budget takes the whole study."""
        return self.after <= self.max_epsilon


def study_charges(study: Study, policy: PolicySettings, rounds: int) -> list[Event]:
    """What the first ``rounds`` rounds of a study are charged: training, and every noised evaluation.

    The model is evaluated in the rounds that the study names, and once at the end.
    """
    plan = plan_for(study)
    events: list[Event] = [*round_events(plan, rounds)] if plan and rounds else []
    charge = evaluation_event(policy)
    if isinstance(charge, Gaussian) and rounds:
        evaluations = 1 + sum(study.evaluates_in(round_) for round_ in range(1, rounds + 1))
        events.append(replace(charge, count=evaluations))
    return events


def whole_study_events(study: Study, policy: PolicySettings) -> list[Event]:
    """All that a study will be charged under this policy, if no round is repeated."""
    return study_charges(study, policy, study.federation.rounds)


def site_ledger(site: Site) -> Ledger | None:
    """The site's ledger; None if nothing was ever charged. One that is gone raises LedgerError when it is read."""
    never = not site.ledger_file.exists() and not site.ledger_file.with_suffix(".head").exists()
    return None if never else Ledger(site.ledger_file)


def forecast(site: Site, study: Study, ledger: Ledger | None) -> Forecast:
    """What ``study`` would cost at ``site``, whose ledger is None before its first charge. Reserves nothing."""
    policy, cohort = site.config.policy, site.config.cohort
    before = charged(ledger.entries(), cohort) if ledger else []
    whole = whole_study_events(study, policy)
    training = [event for event in whole if isinstance(event, SubsampledGaussian)]
    folds = study.evaluation.folds or 1
    return Forecast(
        cohort=cohort,
        max_epsilon=policy.max_epsilon,
        delta=policy.max_delta,
        spent=epsilon(before, policy.max_delta),
        training=epsilon(training, policy.max_delta),
        evaluations=sum(event.count for event in whole if isinstance(event, Gaussian)),
        whole=epsilon(whole, policy.max_delta),
        after=epsilon([*before, *whole], policy.max_delta),
        after_rdp=epsilon_rdp([*before, *whole], policy.max_delta),
        rounds=study.federation.rounds,
        charges=len(ledger.rounds_charged(cohort, study.digest)) if ledger else 0,
        rounds_left=_rounds_left(before, study, policy) if whole else None,
        folds=folds,
        after_folds=epsilon([*before, *whole * folds], policy.max_delta),
        approved=site.is_approved(study),
        refusal=_refusal(study, policy),
    )


def _rounds_left(before: Sequence[Event], study: Study, policy: PolicySettings) -> int:
    """The most rounds of ``study`` that fit on top of ``before``; the cost rises with their number."""

    def fits(rounds: int) -> bool:
        return epsilon([*before, *study_charges(study, policy, rounds)], policy.max_delta) <= policy.max_epsilon

    low, high = 0, study.federation.rounds  # low fits; high does not, once it is found
    while high <= MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_ROUNDS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _refusal(study: Study, policy: PolicySettings) -> str:
    try:
        check_study(study, policy, approved=True, round_=1)
    except PolicyRefusal as refusal:
        return refusal.message
    return ""


def spending(site: Site, entries: Sequence[Entry]) -> tuple[CohortSpending, ...]:
    """What was spent on each cohort of a ledger, the site's present cohort first, then by name."""
    present = site.config.cohort
    delta = site.config.policy.max_delta
    found = []
    for cohort in sorted({e.cohort for e in entries} | {present}, key=lambda name: (name != present, name)):
        events = charged(entries, cohort)
        digests = dict.fromkeys(e.study for e in entries if e.cohort == cohort)
        studies = tuple(_spent_by(site, [e for e in entries if (e.cohort, e.study) == (cohort, d)]) for d in digests)
        found.append(CohortSpending(cohort, epsilon(events, delta), epsilon_rdp(events, delta), studies))
    return tuple(found)


def _spent_by(site: Site, entries: Sequence[Entry]) -> StudySpending:
    """The spending of the one study on the one cohort that ``entries`` (at least one) are about."""
    digest, events = entries[0].study, charged(entries, entries[0].cohort)
    return StudySpending(
        digest=digest,
        name=_approved_name(site, digest),
        rounds=tuple(e.round for e in entries if e.kind == "reserve"),
        steps=sum(event.steps for event in events if isinstance(event, SubsampledGaussian)),
        evaluations=sum(event.count for event in events if isinstance(event, Gaussian)),
        refused=sum(e.kind == "refuse" for e in entries),
        epsilon=epsilon(events, site.config.policy.max_delta),
    )


def _approved_name(site: Site, digest: str) -> str:
    try:
        study = study_from_json((site.folder / "approved" / f"{digest}.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, StudyError):
        return ""
    return study.name if study.digest == digest else ""
