"""The attacks on models, on the small study that many models can be trained of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from client.ingest.build import ingest
from client.ingest.cohort import open_cohort
from client.site import Site
from common.privacy.plan import PrivacyPlan, plan_for
from common.study import Study
from simulations.audit.checks import Check
from simulations.audit.inversion import Inversion, inversion_check, invert
from simulations.audit.membership import Attack, membership, membership_check, small_study
from simulations.audit.shadow import everybody, held


@dataclass(frozen=True)
class AttackResult:
    """``study``: the small one that was attacked, under ``plan``; ``patients``: synthetic ones, half of them members."""

    study: Study
    plan: PrivacyPlan
    patients: int
    bare: Attack
    private: Attack
    inversion: Inversion
    checks: list[Check]


def attack(study: Study, site: Site, models: int, progress: Callable[[int, int], None]) -> AttackResult:
    """Membership inference and gradient inversion on the patients of the synthetic ``site``."""
    people = len(everybody(open_cohort(site, study)))
    small = small_study(study, people // 2)
    ingest(site, small)
    cohort = open_cohort(site, small)
    patients = everybody(cohort)
    plan = plan_for(small)
    if plan is None:
        raise ValueError("a study without privacy has no claim to attack")
    bare, private = membership(small, cohort, patients, models, progress)
    inversion = invert(small, plan, held(cohort, patients[:1], 1))
    checks = [membership_check(bare, private, plan), inversion_check(inversion)]
    return AttackResult(small, plan, len(patients), bare, private, inversion, checks)
