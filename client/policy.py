"""May this happen here? Pure, numbered checks; whatever is not plainly permitted is refused.

Before a round, in this order:

1. the site approved exactly this study, by digest;
2. a study without privacy needs ``allow_without_privacy``;
3. the study's epsilon is at most ``max_epsilon``;
4. the study's delta is at most ``max_delta``;
5. the round is one of the study's;
6. the study's training steps are at most ``max_steps``;
7. its network has at most ``max_parameters`` weights;
8. fewer than ``max_rounds_a_day`` rounds were begun in the last 24 hours;
9. it is within the site's ``hours``;
10. the budget for life: ``Ledger.reserve``, which alone knows what is spent.

A study that asks for more than the site allows is refused; nothing of it is ever made smaller to fit.

Each check has an error class with a ``code`` of its own, which may cross to the coordinator.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from client.site import PolicySettings
from common.errors import PolicyRefusal, UsageError
from common.models.size import parameter_count
from common.privacy.events import Event, Gaussian
from common.study import Study

if TYPE_CHECKING:
    from client.training.randomness import Keystream


class NotApproved(PolicyRefusal):
    """Check 1: the site did not approve this study."""

    code = "policy-1-not-approved"


class PrivacyRequired(PolicyRefusal):
    """Check 2: the study has no privacy and the site asks for it."""

    code = "policy-2-privacy-required"


class EpsilonTooLarge(PolicyRefusal):
    """Check 3: the study's epsilon is above the site's."""

    code = "policy-3-epsilon"


class DeltaTooLarge(PolicyRefusal):
    """Check 4: the study's delta is above the site's."""

    code = "policy-4-delta"


class RoundOutOfStudy(PolicyRefusal):
    """Check 5: the study has no such round."""

    code = "policy-5-round"


class TooManySteps(PolicyRefusal):
    """Check 6: the study trains for more steps than the site allows."""

    code = "policy-6-steps"


class ModelTooLarge(PolicyRefusal):
    """Check 7: the study's network is larger than the site allows."""

    code = "policy-7-model"


class TooManyRounds(PolicyRefusal):
    """Check 8: the site has begun as many rounds in a day as it allows."""

    code = "policy-8-rounds-a-day"


class OutsideHours(PolicyRefusal):
    """Check 9: it is not the time of day at which the site works for studies."""

    code = "policy-9-hours"


def check_study(study: Study, policy: PolicySettings, *, approved: bool, round_: int) -> None:
    """Raise the PolicyRefusal of the first of checks 1 to 7 that fails. ``round_`` counts from 1.

    ``approved``: what ``Site.is_approved`` says of this study; anything but True refuses.
    """
    if approved is not True:
        raise NotApproved(
            f"study '{study.name}' ({study.digest[:12]}) is not approved at this site",
            "Review the study and approve it",
        )
    _check_claim(study, policy)
    rounds = study.federation.rounds
    if isinstance(round_, bool) or not isinstance(round_, int) or not 1 <= round_ <= rounds:
        raise RoundOutOfStudy(f"round {round_!r} of study '{study.name}': expected a whole number in 1..{rounds}")
    _check_size(study, policy)


def check_moment(policy: PolicySettings, begun: Iterable[datetime], now: datetime) -> None:
    """Raise the PolicyRefusal of the first of checks 8 and 9 that fails.

    ``begun``: when rounds were begun at this site; those after ``now`` count too, so setting the clock back gains
    nothing. ``now``: the site's time of day, with its zone.
    """
    recent = sum(now - moment < timedelta(days=1) for moment in begun)
    if not recent < policy.max_rounds_a_day:
        raise TooManyRounds(
            f"{recent} rounds were begun in the last 24 hours; policy.max_rounds_a_day is {policy.max_rounds_a_day}",
            "Wait, or raise the limit in site.toml",
        )
    start, end = policy.hours.split("-")
    clock = f"{now:%H:%M}"
    if not (start <= clock < end if start < end else clock >= start or clock < end):
        raise OutsideHours(f"it is {clock}; policy.hours is {policy.hours}", "Wait, or widen the hours in site.toml")


def _check_size(study: Study, policy: PolicySettings) -> None:
    """Checks 6 and 7."""
    if not study.total_steps <= policy.max_steps:
        raise TooManySteps(
            f"study '{study.name}' trains for {study.total_steps} steps; policy.max_steps is {policy.max_steps}",
            "Ask for a study with fewer rounds or local_steps",
        )
    parameters = parameter_count(study)
    if not parameters <= policy.max_parameters:
        raise ModelTooLarge(
            f"study '{study.name}' trains {study.model.name} of {parameters} weights; "
            f"policy.max_parameters is {policy.max_parameters}",
            "Ask for a study with a smaller network",
        )


def _check_claim(study: Study, policy: PolicySettings) -> None:
    """Checks 2 to 4."""
    privacy = study.privacy
    if not privacy.on:
        if policy.allow_without_privacy is not True:
            raise PrivacyRequired(
                f"study '{study.name}' has privacy.unit 'off', and policy.allow_without_privacy is false",
                "Ask for a study with privacy.unit 'patient', or allow it in site.toml",
            )
        return
    if privacy.epsilon is None or not privacy.epsilon <= policy.max_epsilon:
        raise EpsilonTooLarge(
            f"study '{study.name}' asks privacy.epsilon {privacy.epsilon}; policy.max_epsilon is {policy.max_epsilon:g}",
            "Ask for a study with a smaller epsilon",
        )
    if privacy.delta is None or not privacy.delta <= policy.max_delta:
        raise DeltaTooLarge(
            f"study '{study.name}' asks privacy.delta {privacy.delta}; policy.max_delta is {policy.max_delta:g}",
            "Ask for a study with a smaller delta",
        )


@dataclass(frozen=True)
class EvaluationRelease:
    """What may leave of an evaluation; ``none`` where nothing was evaluated.

    ``counts``: float64, one a count, or None. ``std``: standard deviation of the noise in each count, 0
    when exact. ``event``: what must be on the ledger *before* the counts leave; None unless noised.
    ``subgroups``: the attributes whose confusion matrices follow the counts proper.
    """

    mode: Literal["none", "withheld", "noised", "exact"]
    counts: NDArray[np.float64] | None = None
    std: float = 0.0
    event: Event | None = None
    subgroups: tuple[str, ...] = ()


def evaluation_event(policy: PolicySettings) -> Event | None:
    """What one evaluation costs under this policy; reserve it before the held-out patients are read."""
    return Gaussian(policy.evaluation_sigma) if policy.evaluation == "noised" else None


def release_evaluation(
    counts: ArrayLike, sensitivity: float, policy: PolicySettings, stream: Keystream | None = None
) -> EvaluationRelease:
    """What may leave of a vector of counts over held-out patients, by the site's policy.

    ``sensitivity``: the most that one patient can change ``counts``, in L2 norm. Noised counts are
    ``counts`` plus Gaussian noise of standard deviation ``evaluation_sigma * sensitivity``, on a grid a
    thousand times finer (``client.training.randomness.add_noise``); they may be negative. The noise comes
    from a secret stream; ``stream`` is for tests. Raises UsageError on counts that are not a finite
    vector, or a sensitivity that is not above 0.
    """
    vector = np.array(counts, dtype=np.float64)
    if vector.ndim != 1 or not np.isfinite(vector).all():
        raise UsageError(f"counts of shape {vector.shape}: expected a vector of finite numbers")
    if not (math.isfinite(sensitivity) and sensitivity > 0):
        raise UsageError(f"sensitivity = {sensitivity!r}: expected a finite number above 0")
    if policy.evaluation == "exact":
        return EvaluationRelease("exact", vector)
    if policy.evaluation == "noised":
        import torch  # here, since the commands that only ask need neither

        from client.training.randomness import Keystream, add_noise

        std = policy.evaluation_sigma * sensitivity
        add_noise([torch.from_numpy(vector)], std, stream or Keystream.secret())  # in place
        return EvaluationRelease("noised", vector, std, evaluation_event(policy))
    return EvaluationRelease("withheld")
