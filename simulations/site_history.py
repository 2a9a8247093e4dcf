"""A hospital with a past, for looking at its page: synthetic CT, a cohort, signed studies, ledger and audit log.

The records are written by the same code that a site writes them with, by a clock of their own. The updates are not
trained: the rounds are charged and released on paper alone.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.approval import approve, refuse
from client.audit_log import AuditLog
from client.ingest import ingest
from client.ledger import Ledger
from client.policy import evaluation_event
from client.proposals import propose
from client.site import CoordinatorSettings, DataSettings, PolicySettings, Site, SiteConfig, create_site
from common.errors import BudgetExceeded
from common.models.size import later_message_bytes
from common.pki.keys import new_study_key, study_public
from common.pki.signature import sign_study
from common.privacy.events import Event
from common.privacy.plan import plan_for, round_events
from common.study import Study, load_study, parse_study
from simulations.phantom.hospitals import write_hospitals

SCENARIO = Path(__file__).parent / "scenarios" / "demo.toml"
BEGUN = datetime(2026, 2, 2, 19, 4, tzinfo=UTC)
POLICY = PolicySettings(max_epsilon=8.0, max_delta=1e-3, hours="19:00-06:00", max_rounds_a_day=40)


def make_site(folder: Path, *, patients: int = 48) -> tuple[Site, Ed25519PrivateKey]:
    """A site that joined a coordinator, without a past; and the key that its coordinator signs with."""
    key = new_study_key()
    (hospital,) = write_hospitals(folder / "phantom", patients=patients, counts=None, sites=1, seed=7)
    data = DataSettings(dicom=str(hospital.dicom_dir), labels=str(hospital.labels_file))
    joined = CoordinatorSettings(
        address="coordinator.example:8443", study_key=study_public(key), invitation=secrets.token_hex(32)
    )
    config = SiteConfig(name="st-anna", title="St. Anna Hospital", data=data, policy=POLICY, coordinator=joined)
    return create_site(folder / "st-anna", config), key


def study_like(name: str, title: str, description: str, *, rounds: int, epsilon: float) -> Study:
    """The study of ``make demo`` with another name and size."""
    content = load_study(SCENARIO).model_dump(mode="json") | {"name": name, "title": title, "description": description}
    content["federation"] |= {"rounds": rounds, "deadline_minutes": 600.0}
    content["privacy"] |= {"epsilon": epsilon}
    return parse_study(content)


def give_past(
    site: Site, key: Ed25519PrivateKey, people: tuple[str, str] = ("data-manager", "head-of-radiology")
) -> None:
    """Three studies that were decided on, two of which ran; two that wait, one of them for more than is left."""
    clock = _clock(BEGUN)
    pilot = study_like("vertebra-pilot", "Vertebral fractures: pilot", "A first look.", rounds=6, epsilon=1.0)
    spine = study_like(
        "spine-fractures",
        "Compression fracture, burst fracture or normal?",
        "Thoracolumbar CT of four hospitals.",
        rounds=20,
        epsilon=3.0,
    )
    unsafe = study_like(
        "lung-nodules", "Lung nodules", "Asks for more than this hospital gives.", rounds=4, epsilon=5.0
    )
    for study, rounds in ((pilot, 6), (spine, 13)):
        approve(site, study, sign_study(study, key), lambda: next(clock), by=people[0])
        ingest(site, study)
        for round_ in range(1, rounds + 1):
            run_round(site, study, round_, lambda: next(clock))
    refuse(site, unsafe, lambda: next(clock), by=people[1])
    for study, hours in (
        (study_like("osteoporosis", "Bone density from routine CT", "Six hospitals.", rounds=5, epsilon=1.0), 2),
        (study_like("whole-spine", "The whole spine", "Twelve hospitals, one year.", rounds=40, epsilon=7.5), 20),
    ):
        propose(site, study, sign_study(study, key))
        then = datetime.now(UTC).timestamp() - 3600 * hours
        os.utime(site.folder / "proposed" / f"{study.digest}.json", (then, then))


def run_round(site: Site, study: Study, round_: int, clock: Callable[[], datetime]) -> None:
    """Charge a round, and write down that it was begun and that its update left; or that the budget refused it."""
    events = _events(study, site.config.policy, round_)
    ledger, audit, policy = Ledger(site.ledger_file, clock), AuditLog(site.audit_file, clock), site.config.policy
    about: dict[str, str | int] = {"study": study.digest, "round": round_}
    try:
        row = ledger.reserve(
            cohort=site.config.cohort,
            study_digest=study.digest,
            round_=round_,
            events=events,
            max_epsilon=policy.max_epsilon,
            max_delta=policy.max_delta,
        )
    except BudgetExceeded as error:
        audit.append("refused-or-failed", {"code": error.code, "error": f"BudgetExceeded: {error}", **about})
        return
    audit.append("round", {**about, "training": True})
    size = later_message_bytes(study)
    ledger.commit(row)
    ledger.release(row, f"update {size} bytes, evaluation noised")
    evaluation = "noised" if study.evaluates_in(round_) else "none"
    audit.append("release", {**about, "update_bytes": size, "private": True, "evaluation": evaluation})


def _events(study: Study, policy: PolicySettings, round_: int) -> list[Event]:
    """What one round is charged, with its evaluation where it has one."""
    plan, evaluation = plan_for(study), evaluation_event(policy)
    events = [*round_events(plan)] if plan else []
    return [*events, evaluation] if evaluation and study.evaluates_in(round_) else events


def _clock(begin: datetime) -> Iterator[datetime]:
    """Times in the evenings, some minutes apart."""
    now = begin
    while True:
        yield now
        now += timedelta(minutes=37)
        if 6 <= now.hour < 19:
            now = now.replace(hour=19, minute=4)
