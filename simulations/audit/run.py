"""The whole audit of a study, from the synthetic patients to the page."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from common.console import stage
from common.errors import AuditFailed, UsageError
from common.files import write_atomic
from common.privacy.plan import PrivacyPlan, plan_for
from common.study import Study
from simulations.audit.account import account_checks
from simulations.audit.attacks import AttackResult, attack
from simulations.audit.canaries import FEWEST, MOST, CanaryResult, canary_audit, canary_check
from simulations.audit.checks import Check
from simulations.audit.draws import draw_checks
from simulations.audit.membership import MODELS
from simulations.audit.noise import noise_checks
from simulations.audit.replay import replay_checks
from simulations.audit.shadow import SEED, everybody, held, shadow_site, shadow_study, with_strangers

PATIENTS = 48
REPLAYED, SLICES = 5, 8  # synthetic patients that are left out in turn, and examples of each at most
RESULT, PAGE = "audit.json", "audit.html"


@dataclass(frozen=True)
class Scale:
    """How much is done: synthetic ``patients``, and shadow ``models`` of the membership attack (an even number)."""

    patients: int = PATIENTS
    models: int = MODELS


@dataclass(frozen=True)
class Audit:
    """All that was found. ``attacks`` are the pictures and curves behind their checks."""

    study: Study
    plan: PrivacyPlan
    checks: tuple[Check, ...]
    canaries: CanaryResult
    attacks: AttackResult
    finished: datetime
    seconds: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def failures(self) -> list[str]:
        """Part and name of each check that failed."""
        return [f"{check.part}: {check.name}" for check in self.checks if not check.passed]

    def to_dict(self) -> dict[str, Any]:
        """The audit for programs."""
        return {
            "format": 1,
            "passed": self.passed,
            "study": {"name": self.study.name, "digest": self.study.digest},
            "claim": {
                "unit": "patient, add or remove one",
                "epsilon": self.plan.epsilon,
                "delta": self.plan.delta,
                "accountant": "PLD",
                "sigma": self.plan.sigma,
                "clip": self.plan.clip,
                "sampling_rate": self.plan.sampling_rate,
                "steps": self.plan.rounds * self.plan.steps_per_round,
            },
            "checks": [
                {
                    "part": check.part,
                    "name": check.name,
                    "passed": check.passed,
                    "rule": check.rule,
                    "found": check.found,
                    "figures": check.figures,
                }
                for check in self.checks
            ],
            "finished": self.finished.isoformat(timespec="seconds"),
            "seconds": round(self.seconds, 1),
            "phantom_seed": SEED,
            "version": importlib.metadata.version("fedct"),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def audit(study: Study, canaries: int, console: Console, scale: Scale | None = None) -> Audit:
    """Audit ``study`` on synthetic patients. Raises UsageError where there is no claim, or too few or many canaries."""
    scale, start = scale or Scale(), time.monotonic()
    plan = plan_for(study)
    if plan is None:
        raise UsageError(
            f"study '{study.name}' has privacy.unit 'off': there is no claim to audit", "Give a study with privacy"
        )
    if not FEWEST <= canaries <= MOST:
        raise UsageError(f"--canaries {canaries}: expected a whole number in {FEWEST}..{MOST}")
    shadow = shadow_study(study)
    with tempfile.TemporaryDirectory(prefix="fedct-audit-") as folder:
        with stage("Making a public cohort of synthetic patients", console) as progress:
            site, cohort = shadow_site(Path(folder) / "shadow", shadow, scale.patients, progress)
        classes = len(shadow.task.classes)
        few = held(cohort, everybody(cohort)[:REPLAYED], SLICES)
        few = with_strangers(few, classes, np.random.default_rng(SEED))
        with stage("Replaying steps on neighbouring cohorts", console) as progress:
            checks = replay_checks(shadow, plan, few, progress)
        with stage("Checking noise, draws and ledger", console) as progress:
            checks += noise_checks(shadow, plan, few)
            progress(1, 3)
            checks += draw_checks(shadow, plan)
            progress(2, 3)
            checks += account_checks(shadow, site, cohort)
            progress(3, 3)
        with stage(f"Training on {canaries} canaries", console) as progress:
            result = canary_audit(shadow, plan, canaries, np.random.default_rng(), progress)
        checks.append(canary_check(result))
        with stage("Attacking models with and without privacy", console) as progress:
            attacks = attack(shadow, site, scale.models, progress)
        checks += attacks.checks
    return Audit(study, plan, tuple(checks), result, attacks, datetime.now(UTC), time.monotonic() - start)


def write_audit(found: Audit, out: Path) -> None:
    """Write ``audit.json`` and ``audit.html`` into the folder ``out``, each whole or not at all."""
    from simulations.audit.page import page

    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / RESULT, found.to_json().encode(), mode=0o644)
    write_atomic(out / PAGE, page(found).encode(), mode=0o644)


def require_pass(found: Audit) -> None:
    """Raise AuditFailed, naming the checks, unless all hold."""
    if not found.passed:
        raise AuditFailed(
            f"the audit of study '{found.study.name}' failed: {'; '.join(found.failures())}",
            "Do not use this release for a private study before the cause is known",
        )
