"""A study in plain words, and what it would cost before anything starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from common.models.size import first_message_bytes, later_message_bytes
from common.privacy.accounting import epsilon
from common.privacy.events import SubsampledGaussian
from common.privacy.plan import PrivacyPlan, plan_for, round_events
from common.study import Study
from server.dashboard.shelf import Shown
from server.report import words

MARKS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Forecast:
    """The cost of a study at each site. ``spent``: (round, epsilon after it). ``seconds``: of all rounds, as ``like``
    (the name of a former run of the same work) took; None if there was none. ``longest``: if each round lasts until its
    deadline. ``first``, ``later``: bytes to a site at first, and to and from it in each round after.
    """

    plan: PrivacyPlan | None
    spent: tuple[tuple[int, float], ...]
    seconds: float | None
    like: str
    longest: float
    first: int
    later: int


def plan_lines(study: Study, plan: PrivacyPlan | None) -> list[tuple[str, str]]:
    """A study as pairs of heading and sentence, privacy and federation included."""
    lines = words.plan_facts(study.model_dump(mode="json"), study.description)
    federation = study.federation
    longest = words.duration(60 * federation.deadline_minutes)
    quorum = f"A round counts with {words.sites(federation.minimum_sites)} or more, and waits at most {longest} for the others."
    lines.append(("Sites", quorum))
    if plan is None:
        return [*lines, ("Privacy", "Off: updates leave the sites without noise.")]
    sentence = (
        f"ε = {words.figure(plan.epsilon)} at δ = {words.figure(plan.delta)} for one patient over the whole study, by "
        f"noise of {words.figure(plan.sigma)} times the clip in each of {plan.rounds * plan.steps_per_round} steps."
    )
    return [*lines, ("Privacy", sentence)]


def forecast(study: Study, runs: Iterable[Shown]) -> Forecast:
    """What ``study`` would cost. Raises StudyError where no noise fits its claim."""
    plan, rounds = plan_for(study), study.federation.rounds
    spent: tuple[tuple[int, float], ...] = ()
    if plan is not None:
        marks = sorted({max(1, round(rounds * share)) for share in MARKS})
        spent = tuple((mark, _epsilon(round_events(plan, mark), plan.delta)) for mark in marks)
    seconds, like = _former(study, runs)
    return Forecast(
        plan=plan,
        spent=spent,
        seconds=None if seconds is None else seconds * rounds,
        like=like,
        longest=rounds * study.federation.deadline_minutes * 60,
        first=first_message_bytes(study),
        later=later_message_bytes(study),
    )


@lru_cache(maxsize=256)
def _epsilon(events: tuple[SubsampledGaussian, ...], delta: float) -> float:
    return epsilon(events, delta)


def _former(study: Study, runs: Iterable[Shown]) -> tuple[float | None, str]:
    """Mean seconds of a round of the newest run that did the same work in it."""
    for run in runs:
        if run.history.rounds and _work(run.study) == _work(study):
            return sum(one.seconds for one in run.history.rounds) / len(run.history.rounds), run.name
    return None, ""


def _work(study: Study) -> tuple[object, ...]:
    """What makes a round long."""
    training, shown = study.training, study.input
    return (
        *(study.model.name, study.model.trainable, study.privacy.on),
        *(training.local_steps, training.batch_patients, training.views_per_patient),
        *(shown.size, shown.planes, shown.channels),
    )
