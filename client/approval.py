"""A person's decision on a study: what it would do here, and the way to yes or no.

``approve`` checks, in this order, and changes nothing before all hold:

1. the study is signed by the coordinator that this site joined (a simulated site joined none, and asks for none);
2. the site's policy would let it run (``client.policy``, checks 2 to 7);
3. the privacy budget takes all its rounds on top of what is spent.

Yes goes on the audit log before it holds, no takes hold before it is on the log: whatever crashes in between, nothing
runs that is not on the log. An approval is one file in ``approved/``, made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from client.audit_log import AuditLog
from client.budget import Forecast, forecast, site_ledger
from client.ingest.cohort import open_cohort
from client.ledger import utc_now
from client.policy import check_study
from client.site import Site
from common.errors import BudgetExceeded, DataError, TrustError
from common.study import Study


@dataclass(frozen=True)
class CohortSize:
    """Patients of a cohort: for training, and held out for evaluation."""

    training: int
    held_out: int


@dataclass(frozen=True)
class Review:
    """All that a person needs for a decision.

    ``signature``: what is wrong with it, "" if it holds or none is asked for. ``cohort``: None until the study's data
    are ingested. ``forecast``: the cost, and in ``refusal`` what the site's policy has against the study.
    """

    signature: str
    cohort: CohortSize | None
    forecast: Forecast


def review(site: Site, study: Study, signature: str) -> Review:
    """Look at a study without changing anything. ``signature``: the line of the ``.sig`` file, "" if there is none."""
    problem = ""
    try:
        site.check_signature(study, signature)
    except TrustError as error:
        problem = error.message
    return Review(problem, _cohort_size(site, study), forecast(site, study, site_ledger(site)))


def approve(site: Site, study: Study, signature: str, clock: Callable[[], datetime] = utc_now) -> None:
    """Agree to a study. Raises TrustError, PolicyRefusal or BudgetExceeded at the first check that fails."""
    site.check_signature(study, signature)
    check_study(study, site.config.policy, approved=True, round_=1)
    cost = forecast(site, study, site_ledger(site))
    if not cost.fits:
        raise BudgetExceeded(
            f"study '{study.name}' would bring cohort '{cost.cohort}' to epsilon {cost.after:.4g}; "
            f"policy.max_epsilon is {cost.max_epsilon:g} at delta {cost.delta:g}",
            "Agree on fewer rounds or a smaller epsilon, or raise max_epsilon in site.toml",
        )
    AuditLog(site.audit_file, clock).append(
        "study-approved", {"study": study.digest, "name": study.name, "epsilon": cost.whole}
    )
    site.approve(study, signature)


def refuse(site: Site, study: Study, clock: Callable[[], datetime] = utc_now) -> bool:
    """Refuse a study, and take back an approval if there is one; whether there was."""
    had = site.withdraw(study)
    AuditLog(site.audit_file, clock).append(
        "study-refused", {"study": study.digest, "name": study.name, "was_approved": had}
    )
    return had


def _cohort_size(site: Site, study: Study) -> CohortSize | None:
    try:
        cohort = open_cohort(site, study)
    except DataError:
        return None
    return CohortSize(len(cohort.training_patients()), len(cohort.holdout_patients()))
