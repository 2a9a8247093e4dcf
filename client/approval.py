"""A person's decision on a study: what it would do here, and the way to yes or no.

``approve`` checks, in this order, and changes nothing before all hold:

1. the study is signed by the coordinator that this site joined (a simulated site joined none, and asks for none);
2. the site's policy would let it run (``client.policy``, checks 2 to 7);
3. the privacy budget takes all its rounds on top of what is spent.

Yes goes on the audit log before it holds, no takes hold before it is on the log: whatever crashes in between, nothing
runs that is not on the log. An approval is one file in ``approved/``, made here and nowhere else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from client.audit_log import AuditLog
from client.budget import Forecast, forecast, site_ledger
from client.chain import Scalar
from client.ingest.cohort import open_cohort
from client.ledger import Ledger
from client.policy import check_study
from client.site import Site
from common.clock import now
from common.errors import BudgetExceeded, DataError, StudyError, TrustError
from common.study import Study, study_from_json


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


def review(site: Site, study: Study, signature: str, ledger: Ledger | None = None) -> Review:
    """Look at a study without changing anything.

    ``signature``: the line of the ``.sig`` file, "" if there is none. ``ledger``: the site's, if it is open already.
    """
    problem = ""
    try:
        site.check_signature(study, signature)
    except TrustError as error:
        problem = error.message
    return Review(problem, cohort_size(site, study), forecast(site, study, ledger or site_ledger(site)))


def approve(site: Site, study: Study, signature: str, clock: Callable[[], datetime] = now, *, by: str = "") -> None:
    """Agree to a study; the log says ``by`` whom, if that is known.

    Raises TrustError, PolicyRefusal or BudgetExceeded at the first check that fails.
    """
    site.check_signature(study, signature)
    check_study(study, site.config.policy, approved=True, round_=1)
    cost = forecast(site, study, site_ledger(site))
    if not cost.fits:
        raise BudgetExceeded(
            f"study '{study.name}' would bring cohort '{cost.cohort}' to epsilon {cost.after:.4g}; "
            f"policy.max_epsilon is {cost.max_epsilon:g} at delta {cost.delta:g}",
            "Agree on fewer rounds or a smaller epsilon, or raise max_epsilon in site.toml",
        )
    details: dict[str, Scalar] = {"study": study.digest, "name": study.name, "epsilon": cost.whole}
    AuditLog(site.audit_file, clock).append("study-approved", details | _by(by))
    site.approve(study, signature)


def refuse(site: Site, study: Study, clock: Callable[[], datetime] = now, *, by: str = "") -> bool:
    """Refuse a study, and take back an approval if there is one; whether there was. The log says ``by`` whom."""
    had = site.withdraw(study)
    details: dict[str, Scalar] = {"study": study.digest, "name": study.name, "was_approved": had}
    AuditLog(site.audit_file, clock).append("study-refused", details | _by(by))
    return had


def approved(site: Site) -> tuple[Study, ...]:
    """The studies whose approval holds, by name."""
    found = []
    for path in (site.folder / "approved").glob("*.json"):
        with contextlib.suppress(OSError, UnicodeDecodeError, StudyError):
            study = study_from_json(path.read_text(encoding="utf-8"))
            if study.digest == path.stem and site.is_approved(study):
                found.append(study)
    return tuple(sorted(found, key=lambda study: (study.name, study.digest)))


def _by(name: str) -> dict[str, Scalar]:
    return {"by": name} if name else {}


def cohort_size(site: Site, study: Study) -> CohortSize | None:
    """How many patients take part; None until the study's data are ingested, or if they can't be used."""
    try:
        cohort = open_cohort(site, study)
    except DataError:
        return None
    return CohortSize(len(cohort.training_patients()), len(cohort.holdout_patients()))
