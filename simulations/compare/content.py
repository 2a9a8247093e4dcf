"""``comparison.json``: what a comparison found, as docs/results.md describes it. The page has no other source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from common.files import write_atomic
from server.results import Amount, Metrics, Name, Share, Tally, Text, Time

Kind = Literal["local", "federated", "central", "unseen"]
TestName = Literal["corrected-t", "wilcoxon", "mcnemar", "delong"]
Field_ = Literal["accuracy", "balanced_accuracy", "macro_auroc"]
FIELDS: tuple[Field_, ...] = ("accuracy", "balanced_accuracy", "macro_auroc")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Candidate(_Frozen):
    """One study. ``digests``: one, or one a fold. ``epsilon``: most that a site was charged for all its trainings."""

    name: Name
    title: Text
    digests: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...]
    study: dict[str, Any]
    epsilon: Amount | None
    delta: Share | None


class Difference(_Frozen):
    """A setting in which the studies differ, with each study's value in their order."""

    setting: Name
    values: tuple[Any, ...]


class FoldFigures(_Frozen):
    """One fold: its patients, and the figures on them; None where there are too few."""

    fold: Annotated[int, Field(ge=1)]
    cases: Amount
    accuracy: float | None
    balanced_accuracy: float | None
    macro_auroc: float | None


class Spread(_Frozen):
    """Mean and standard deviation (of the sample) over the folds that have a figure."""

    folds: Tally
    mean: float | None
    sd: float | None


class Arm(_Frozen):
    """One study trained in one way. ``metrics``: every held-out patient once; ``per_site``: by hospital.

    ``everybody``: by hospital, all its patients, judged by the model that was trained without it; no folds.
    """

    study: Name
    kind: Kind
    metrics: Metrics
    per_site: dict[Name, Metrics]
    folds: tuple[FoldFigures, ...] = ()
    spread: dict[Field_, Spread] = {}
    everybody: dict[Name, Metrics] = {}


class Test(_Frozen):
    """A test of a pair. ``adjusted``: p after Holm's correction over the pairs. Differences: first less second."""

    __test__ = False  # no test of pytest's

    p: Share | None
    adjusted: Share | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


class Duel(_Frozen):
    """Two arms on the same patients.

    ``better``: patients that the first judges better; ``worse``: those that the second does. ``difference``: of the
    accuracies, first less second, with its 95 % interval, where there is one; with folds the mean over them.
    ``per_site``: the difference on each hospital's patients.
    """

    first: tuple[Name, Kind]
    second: tuple[Name, Kind]
    cases: Tally
    better: Tally
    worse: Tally
    difference: float | None
    low: float | None
    high: float | None
    tests: dict[TestName, Test]
    per_site: dict[Name, float | None]


class Contest(_Frozen):
    """Content of ``comparison.json``. ``decides``: the test that the findings go by."""

    format: Literal[1] = 1
    started: Time
    finished: Time
    seed: int
    folds: Annotated[int, Field(ge=2)] | None
    sites: tuple[Name, ...]
    versions: dict[Name, Text]
    candidates: tuple[Candidate, ...]
    differences: tuple[Difference, ...]
    arms: tuple[Arm, ...]
    duels: tuple[Duel, ...]
    decides: TestName
    findings: tuple[str, ...] = ()


def write_contest(contest: Contest, path: Path) -> None:
    """Write ``comparison.json``, whole or not at all. OSError passes through."""
    write_atomic(path, (contest.model_dump_json(indent=1) + "\n").encode(), mode=0o644)
