"""A coordinator with a past, made up without training: for pictures of its page, and for measuring it.

Figures come by the production path (``server.evaluation``) from seeded random predictions, so that they look and weigh
as real ones do; nothing here is a result.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from common.metrics import Counts
from common.pki.address import Address
from common.pki.invitation import make_invitation
from common.pki.keys import new_p384_key
from common.pki.request import make_request
from common.study import Study, parse_study
from server import ca
from server.coordinator import Coordinator, read_file
from server.evaluation import evaluate, final_metrics
from server.registry import Registry, site_name
from server.report import render_report
from server.report.card import write_cards
from server.results import (
    Participation,
    PrivacySummary,
    Results,
    RoundRecord,
    SiteSummary,
    write_results,
)
from server.run_folder import Launch, RunFolder

CLASSES = ("compression", "burst", "normal")
HOSPITALS = ("St. Anna", "Riverside General", "Hospital of the Lake", "North Clinic", "Marien Hospital", "Harbour View")
PATIENTS = 60
SKILL = 2.2
VARIANTS = 8  # sites share so many sets of counts, so that many rounds are quickly made


@dataclass(frozen=True)
class Past:
    """What became of a study: ``done`` of its rounds; ``finished``, or else the next one is under way."""

    done: int
    finished: bool


def make_coordinator(folder: Path, hospitals: Sequence[str] = HOSPITALS) -> Coordinator:
    """A coordinator that admitted all ``hospitals`` but the last, which it invited."""
    now = datetime.now(UTC)
    made = ca.create(folder, "University Hospital", Address("127.0.0.1", 18443), secrets.token_hex(16), now)
    registry, key = Registry(made.registry_file), made.study_key()
    for hospital in hospitals:
        invitation = make_invitation(
            coordinator=made.config.title,
            address=made.config.address,
            authority=read_file(made.authority_file).decode(),
            study_key=key,
            site=site_name(hospital),
            title=hospital,
            now=now,
            random=secrets.token_bytes,
        )
        registry.invite(invitation, now)
        if hospital != hospitals[-1]:
            registry.admit(make_request(invitation, new_p384_key()).encode(), now)
    return made


def make_study(name: str, title: str, rounds: int) -> Study:
    """A private study over three classes."""
    return parse_study(
        {
            "format": 1,
            "name": name,
            "title": title,
            "description": "Made-up figures, to show the page.",
            "task": {"classes": list(CLASSES)},
            "input": {
                "windows": [{"low": -200, "high": 800}],
                "view": "sagittal",
                "spacing_mm": 2.5,
                "slice_spacing_mm": 4.0,
                "planes": 3,
                "size": 64,
            },
            "model": {"trainable": "norm+head"},
            "training": {"learning_rate": 1.0, "local_steps": 1, "batch_patients": 45},
            "privacy": {"unit": "patient", "epsilon": 8.0, "delta": 1e-5, "clip": 1.0, "sampling_rate": 1.0},
            "federation": {"rounds": rounds, "minimum_sites": 2},
        }
    )


def make_run(root: Path, study: Study, sites: Sequence[str], past: Past, now: datetime, seed: int = 0) -> RunFolder:
    """Write the folder ``root`` of a run of ``study``: events, records of rounds, and if finished the results."""
    folder, rng = RunFolder(root), np.random.default_rng(seed)
    folder.prepare(study, root)
    folder.note_launch(Launch(seed, 0))
    (folder.inner / "rounds").mkdir(exist_ok=True)
    (folder.inner / "checkpoints").mkdir(exist_ok=True)
    total, begun = study.federation.rounds, now - timedelta(seconds=90 * past.done + 40)
    lines: list[dict[str, object]] = [_event("begin", begun, round=1, of=total)]
    lines += [_event("hello", begun, site=s, ready=True, reason="", release="0.1.0") for s in sites]
    records = []
    for number in range(1, past.done + 1):
        start = begun + timedelta(seconds=90 * (number - 1))
        records.append(_record(rng, study, number, sites))
        lines += _events(records[-1], start, total)
        (folder.inner / "rounds" / f"{number:05d}.json").write_text(records[-1].model_dump_json())
    if past.done:  # what counts the rounds; nobody goes on from here
        (folder.inner / "checkpoints" / f"{past.done:05d}.safetensors").touch()
    if past.finished:
        lines.append(_event("end", now, outcome="finished", reason="", code=""))
        _publish(folder, study, sites, records, begun, now)
    else:
        lines += _under_way(sites, past.done + 1, now - timedelta(seconds=40))
    folder.events_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _event(kind: str, moment: datetime, **details: object) -> dict[str, object]:
    return {"event": kind, "time": moment.isoformat(timespec="milliseconds"), **details}


def _record(rng: np.random.Generator, study: Study, number: int, sites: Sequence[str]) -> RoundRecord:
    skill = SKILL * (1 - np.exp(-number / (study.federation.rounds / 4)))
    parts = tuple(_part(rng, site, place, number) for place, site in enumerate(sites))
    there = [part.site for part in parts if part.status == "ok"]
    variants = [_counts(rng, study, skill) for _ in range(min(VARIANTS, len(there)))]
    metrics = [evaluate(counts, study.task.classes) for counts in variants]
    pooled = final_metrics({str(n): (c, 0.0) for n, c in enumerate(variants)}, study.task.classes).pooled
    return RoundRecord(
        round=number,
        seconds=70 + 20 * rng.random(),
        bytes_down=200_000 * len(sites),
        bytes_up=200_000 * len(there),
        participation=parts,
        model_round=number - 1,
        metrics=pooled,
        site_metrics={site: metrics[place % len(metrics)] for place, site in enumerate(there)},
    )


def _part(rng: np.random.Generator, site: str, place: int, number: int) -> Participation:
    if place == 2 and number % 5 == 4:
        return Participation(site=site, status="late", reason="deadline")
    if place == 3 and number % 7 == 3:
        return Participation(site=site, status="failed", reason="offline")
    return Participation(site=site, status="ok", seconds=40 + 25 * rng.random())


def _counts(rng: np.random.Generator, study: Study, skill: float) -> Counts:
    size = len(study.task.classes)
    labels = rng.choice(size, size=PATIENTS)
    logits = rng.normal(size=(PATIENTS, size))
    logits[np.arange(PATIENTS), labels] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Counts.of(labels, scores, study.evaluation.score_bins)


def _events(record: RoundRecord, start: datetime, total: int) -> list[dict[str, object]]:
    asked = [p for p in record.participation if p.reason != "offline"]
    lines = [_event("asked", start, round=record.round, site=p.site, what="train", sending=1) for p in asked]
    for part in asked:
        answered = start + timedelta(seconds=part.seconds or 80)
        lines.append(_event("reply", answered, round=record.round, **part.model_dump(mode="json")))
    missed = [[p.site, p.status, p.reason] for p in record.participation if p.status != "ok"]
    accuracy = record.metrics.accuracy.value if record.metrics else None
    lines.append(
        _event(
            "round",
            start + timedelta(seconds=record.seconds),
            round=record.round,
            seconds=record.seconds,
            model_round=record.model_round,
            accuracy=accuracy,
            took_part=len(record.participation) - len(missed),
            missed=missed,
            of=total,
        )
    )
    return lines


def _under_way(sites: Sequence[str], number: int, start: datetime) -> list[dict[str, object]]:
    """A round in which a third has sent, one failed, and one lost its connection."""
    lines = [_event("asked", start, round=number, site=site, what="train", sending=1) for site in sites]
    for place, site in enumerate(sites):
        if place == 1:
            lines.append(_event("gone", start, round=number, site=site))
        elif place % 3 == 0:
            status, reason = ("failed", "storage") if place == 3 else ("ok", "")
            part = Participation(site=site, status=status, reason=reason, seconds=21.0)  # type: ignore[arg-type]
            lines.append(_event("reply", start, round=number, **part.model_dump(mode="json")))
    return lines


def _publish(
    folder: RunFolder, study: Study, sites: Sequence[str], records: list[RoundRecord], begun: datetime, now: datetime
) -> None:
    rng = np.random.default_rng(1)
    counts = {site: (_counts(rng, study, SKILL), 0.0) for site in sites}
    privacy = study.privacy
    results = Results(
        study_name=study.name,
        study_digest=study.digest,
        study=study.model_dump(mode="json"),
        started=begun,
        finished=now,
        seed=0,
        simulated=True,
        data=study.description,
        versions={"fedct": "0.1.0"},
        outcome="finished",
        model_sha256="0" * 64,
        sites=tuple(_summary(site, records, privacy.epsilon, privacy.delta) for site in sites),
        rounds=tuple(records),
        final=final_metrics(counts, study.task.classes),
        privacy=PrivacySummary(
            on=privacy.on,
            unit="patient",
            relation="add or remove one patient",
            epsilon=privacy.epsilon,
            delta=privacy.delta,
            accountant="PLD (dp-accounting, pessimistic)",
        ),
    )
    write_results(results, folder.results_file)
    render_report(results, folder.report_file)
    write_cards(results, folder)


def _summary(site: str, records: Sequence[RoundRecord], epsilon: float | None, delta: float | None) -> SiteSummary:
    ok = sum(part.status == "ok" for record in records for part in record.participation if part.site == site)
    spent = (epsilon or 0.0) * (ok / max(1, len(records))) ** 0.5
    missed = len(records) - ok
    return SiteSummary(site=site, rounds_ok=ok, rounds_missed=missed, epsilon=spent, delta=delta, evaluation="exact")
