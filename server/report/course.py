"""A run over its rounds, as far as figures show it: small, where the records of its rounds are large.

A round of 100 sites is a record of 0.4 MB, and 500 of them are 2 GB of objects; what is drawn of them is 10 MB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict

from server.results import Estimate, Participation, Results, Status

Measure = Literal["accuracy", "log_loss"]


class Judged(Protocol):
    """One model on held-out patients."""

    @property
    def accuracy(self) -> Estimate: ...
    @property
    def log_loss(self) -> Estimate: ...


class Round(Protocol):
    """One round: a whole ``RoundRecord``, or a ``SeenRound``."""

    @property
    def round(self) -> int: ...
    @property
    def participation(self) -> Sequence[Participation]: ...
    @property
    def model_round(self) -> int | None: ...
    @property
    def metrics(self) -> Judged | None: ...
    @property
    def site_metrics(self) -> Mapping[str, Judged]: ...


class _Seen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class SeenMetrics(_Seen):
    """What of ``Metrics`` is drawn."""

    accuracy: Estimate
    log_loss: Estimate


class SeenRound(_Seen):
    """What of a ``RoundRecord`` is drawn."""

    round: int
    participation: tuple[Participation, ...]
    model_round: int | None = None
    metrics: SeenMetrics | None = None
    site_metrics: dict[str, SeenMetrics] = {}


@dataclass(frozen=True)
class Point:
    """A measure of one model: of all hospitals together, None if unknown, and of each hospital that has one."""

    pooled: Estimate | None
    sites: Mapping[str, float]


@dataclass
class Course:
    """``sites`` in the order in which they are shown; ``rounds`` that are complete; of each, the ``status`` of its sites.

    ``points``: by measure, then by the rounds of training that the model had.
    """

    sites: Sequence[str] = ()
    rounds: list[int] = field(default_factory=list)
    status: list[Mapping[str, Status]] = field(default_factory=list)
    points: dict[Measure, dict[int, Point]] = field(default_factory=lambda: {name: {} for name in get_args(Measure)})

    @classmethod
    def of(cls, results: Results) -> Course:
        """The whole course of a run, its final model last."""
        made = cls([site.site for site in results.sites])
        for record in results.rounds:
            made.add(record)
        if results.rounds:
            made.judge(results.rounds[-1].round, results.final.pooled, results.final.per_site)
        return made

    def add(self, record: Round) -> None:
        """Add the next round."""
        self.rounds.append(record.round)
        self.status.append({part.site: part.status for part in record.participation})
        if record.model_round is not None:
            self.judge(record.model_round, record.metrics, record.site_metrics)

    def judge(self, rounds: int, pooled: Judged | None, sites: Mapping[str, Judged]) -> None:
        """Add what was measured of the model that had so many ``rounds`` of training."""
        for name, points in self.points.items():
            whole: Estimate | None = getattr(pooled, name) if pooled else None
            each = {site: getattr(metrics, name).value for site, metrics in sites.items()}
            known = {site: value for site, value in each.items() if value is not None}
            if known or (whole and whole.value is not None):
                points[rounds] = Point(whole if whole and whole.value is not None else None, known)

    def pooled(self, measure: Measure) -> list[tuple[int, Estimate]]:
        """(rounds of training, estimate) of all hospitals together; gaps are left out."""
        return [(x, one.pooled) for x, one in sorted(self.points[measure].items()) if one.pooled]
