"""Realistic results, built by the production path from seeded random predictions."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from common.metrics import Counts
from server.evaluation import evaluate, final_metrics
from server.results import Comparison, Contribution, Participation, PrivacySummary, Results, RoundRecord, SiteSummary

CLASSES = ("compression", "burst", "normal")
MIX = (0.4, 0.42, 0.18)


def predictions(rng, patients, classes, skill):
    """Labels and softmax scores of a model that is right more often with more ``skill``."""
    mix = np.array(MIX) if classes == 3 else np.full(classes, 1 / classes)
    labels = rng.choice(classes, size=patients, p=mix / mix.sum())
    logits = rng.normal(size=(patients, classes))
    logits[np.arange(patients), labels] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, scores


@dataclass(frozen=True)
class Sample:
    """What kind of run to make up."""

    sites: int = 5
    rounds: int = 20
    patients: int = 28
    classes: tuple[str, ...] = CLASSES
    names: tuple[str, ...] = ()
    privacy: bool = True
    comparisons: bool = True
    evaluation: str = "exact"
    noise: float = 0.0
    faults: bool = True
    outcome: str = "finished"
    reason: str = ""
    title: str = "Vertebral fractures on CT: compression, burst or normal"
    skill: float = 2.2
    data: str = (
        "Synthetic thoracolumbar CT of 698 phantom patients, dealt to hospitals that differ in scanner and case mix."
    )

    def build(self) -> Results:
        """The results of such a run; the same each time."""
        rng = np.random.default_rng(7)
        names = self.names or tuple(f"hospital-{i + 1:02d}" for i in range(self.sites))

        def counts(skill, size=None):
            made = Counts.of(*predictions(rng, size or self.patients, len(self.classes), skill), bins=64)
            if not self.noise:
                return made
            return Counts.from_vector(
                made.to_vector() + rng.normal(0, self.noise, made.to_vector().size), made.classes, 64
            )

        def released(skill):
            if self.evaluation == "withheld":
                return {}
            return {name: (counts(skill + 0.3 * rng.normal()), self.noise) for name in names}

        records = tuple(self._record(rng, index, names, released) for index in range(1, self.rounds + 1))
        final = final_metrics(released(self.skill) if self.outcome == "finished" else {}, self.classes)
        start = datetime(2026, 3, 4, 9, 30, 12, tzinfo=UTC)
        return Results(
            study_name="spine-fractures",
            study_digest="ab12" * 16,
            study=self._study(),
            started=start,
            finished=start + timedelta(minutes=47, seconds=12),
            seed=1,
            simulated=True,
            data=self.data,
            versions={"fedct": "0.1.0", "python": "3.11.9", "flwr": "1.41.0", "torch": "2.15.0", "opacus": "1.6.0"},
            outcome=self.outcome,
            reason=self.reason,
            model_sha256="cd34" * 16 if self.outcome == "finished" else "",
            sites=tuple(self._site(name, index, records) for index, name in enumerate(names)),
            rounds=records,
            final=final,
            comparisons=self._comparisons(counts, names) if self.comparisons else {},
            privacy=self._privacy(),
        )

    def _record(self, rng, index, names, released):
        skill = self.skill * (1 - np.exp(-index / (self.rounds / 4)))
        part = tuple(self._part(rng, name, place, index) for place, name in enumerate(names))
        answers = {p.site for p in part if p.status == "ok"}
        each = {site: pair for site, pair in released(skill).items() if site in answers}
        pooled = final_metrics(each, self.classes).pooled
        return RoundRecord(
            round=index,
            seconds=100 + 60 * rng.random(),
            bytes_down=44_700_000 * len(names),
            bytes_up=44_700_000 * len(answers),
            participation=part,
            model_round=index - 1 if each else None,
            metrics=pooled,
            site_metrics={site: evaluate(c, self.classes, noise) for site, (c, noise) in each.items()},
            contributions={s: Contribution(agreement=0.7 - 0.02 * index, shift=0.25) for s in sorted(answers)},
        )

    def _part(self, rng, name, place, index):
        if self.faults and place == 1 and index in (4, 5, 6, 11):
            return Participation(site=name, status="late")
        if self.faults and place == 3 and index > self.rounds * 0.8:
            return Participation(site=name, status="refused", reason="budget-exceeded", seconds=0.2)
        if self.faults and place == 2 and index == 9:
            return Participation(site=name, status="failed", reason="data-unusable", seconds=3.0)
        if self.faults and place == 4 and index == 2:
            return Participation(site=name, status="late")
        return Participation(site=name, status="ok", seconds=60 + 60 * rng.random())

    def _site(self, name, index, records):
        ok = sum(p.status == "ok" for r in records for p in r.participation if p.site == name)
        return SiteSummary(
            site=name,
            rounds_ok=ok,
            rounds_missed=len(records) - ok,
            epsilon=None if not self.privacy or index == 5 else 8.0 * (ok / max(1, len(records))) ** 0.5,
            delta=1e-3 if self.privacy else None,
            evaluation=self.evaluation,
        )

    def _comparisons(self, counts, names):
        own = {name: evaluate(counts(1.1), self.classes, self.noise) for name in names}
        everybody = {name: evaluate(counts(1.0, 140), self.classes) for name in names}
        central = {name: evaluate(counts(self.skill), self.classes, self.noise) for name in names}
        local = Comparison(
            kind="local",
            description="Each hospital trained a model of its own with as many steps as in the federation.",
            per_site=own,
            pooled_per_site=everybody,
        )
        together = Comparison(
            kind="central",
            description="One model was trained on all training patients together, without differential privacy.",
            pooled=evaluate(counts(self.skill + 0.1, 140), self.classes),
            per_site=central,
        )
        return {"local": local, "central": together}

    def _privacy(self):
        if not self.privacy:
            return PrivacySummary(on=False)
        return PrivacySummary(
            on=True,
            unit="patient",
            relation="add or remove one patient",
            epsilon=8.0,
            delta=1e-3,
            accountant="PLD (dp-accounting, pessimistic)",
            sigma=2.31,
            sampling_rate=0.5,
            clip=1.0,
            steps_per_round=8,
            rounds=self.rounds,
        )

    def _study(self):
        return {
            "title": self.title,
            "task": {"classes": list(self.classes), "label_level": "patient"},
            "input": {"view": "sagittal", "size": 96, "spacing_mm": 2.0, "windows": [{"low": -200, "high": 800}]},
            "model": {"name": "resnet18", "initial": "none", "trainable": "all"},
            "training": {"optimizer": "sgd", "learning_rate": 0.05, "local_steps": 8},
            "federation": {"rounds": self.rounds, "strategy": "fedavg"},
            "evaluation": {"holdout": 0.2},
        }


@pytest.fixture(scope="session")
def results_of():
    """A function that makes up results: ``results_of(sites=50, privacy=False)``."""
    built = functools.cache(Sample.build)
    return lambda **kind: built(Sample(**kind))
