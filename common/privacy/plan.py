"""What a study's privacy section means for a site, from public values alone.

The claim: patient-level (epsilon, delta)-differential privacy, neighbouring cohorts differ by one
patient, added or removed; accounted by PLD over every step of every round. The sampling rate, the
denominator and the number of steps are the study's: none may ever be derived from the size of a
site's cohort, which is itself private.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import StudyError, UsageError
from common.privacy.accounting import noise_multiplier
from common.privacy.events import Event, SubsampledGaussian
from common.study import Study


@dataclass(frozen=True)
class PrivacyPlan:
    """Fixed privacy parameters of a study, equal at every site.

    ``sigma``: noise multiplier; noise added to the summed gradient has standard deviation
    ``sigma * clip``. ``sampling_rate``: Poisson rate of a patient being in a step, in (0, 1].
    ``clip``: L2 bound of one patient's gradient. ``denominator``: patients that the noised sum is divided
    by. ``epsilon`` at ``delta`` bounds ``rounds * steps_per_round`` steps.
    """

    sigma: float
    sampling_rate: float
    clip: float
    steps_per_round: int
    rounds: int
    denominator: int
    epsilon: float
    delta: float


def plan_for(study: Study) -> PrivacyPlan | None:
    """The plan of a study, with the least noise that keeps its claim; None when its privacy is off.

    Raises StudyError where no noise fits the claim (see ``noise_multiplier``).
    """
    privacy = study.privacy
    if (
        not privacy.on
        or privacy.epsilon is None
        or privacy.delta is None
        or privacy.clip is None
        or privacy.sampling_rate is None
    ):
        return None
    try:
        sigma = noise_multiplier(privacy.epsilon, privacy.delta, privacy.sampling_rate, study.total_steps)
    except UsageError as error:
        raise StudyError(f"study '{study.name}', privacy: {error.message}", error.remedy) from None
    return PrivacyPlan(
        sigma=sigma,
        sampling_rate=privacy.sampling_rate,
        clip=privacy.clip,
        steps_per_round=study.training.local_steps,
        rounds=study.federation.rounds,
        denominator=study.training.batch_patients,
        epsilon=privacy.epsilon,
        delta=privacy.delta,
    )


def round_events(plan: PrivacyPlan, rounds: int = 1) -> tuple[Event, ...]:
    """What ``rounds`` rounds of training are charged, whatever is drawn in them."""
    return (SubsampledGaussian(plan.sigma, plan.sampling_rate, plan.steps_per_round * rounds),)
