"""Epsilon from guesses, among mechanisms that differ in their noise alone.

The study's steps with ``scale`` times its noise have a trade-off curve of their own for each scale. Less
noise explains more right guesses. The largest scale that still explains them, at the study's delta, is the lower
bound on epsilon (Mahloujifar, Melis and Chaudhuri 2025, section 5). It speaks of epsilon for a mechanism of this
family, which is what the study claims to run; ``steinke_epsilon`` assumes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from common.privacy.accounting import epsilon, privacy_curve
from common.privacy.events import MAX_SIGMA, MIN_SIGMA, SubsampledGaussian
from common.privacy.plan import PrivacyPlan
from simulations.audit.bounds import LEVEL, Guesses, TradeOff, f_dp_possible

_POINTS = 256  # of a curve; the bound moves by under 1 % from 64 on
_FINEST = 1e-9  # delta at which a curve's last point lies
_RANGE = 64.0  # scales looked at: from a 64th of the study's noise to 64 times as much
_TOLERANCE = 0.005  # of the scale, relative


def event_of(plan: PrivacyPlan) -> SubsampledGaussian:
    """All steps of the plan, as the mechanism that they are claimed to be."""
    return SubsampledGaussian(plan.sigma, plan.sampling_rate, plan.rounds * plan.steps_per_round)


def scaled(event: SubsampledGaussian, scale: float) -> SubsampledGaussian:
    """The same steps with ``scale`` times the noise, within what an event may hold."""
    return replace(event, sigma=min(MAX_SIGMA, max(MIN_SIGMA, event.sigma * scale)))


@lru_cache(maxsize=512)
def trade_off(event: SubsampledGaussian) -> TradeOff:
    """The curve of an event, from points of its privacy curve."""
    last = max(1e-3, min(500.0, epsilon([event], _FINEST)))
    epsilons = np.concatenate([[0.0], np.geomspace(last / 1000, last, _POINTS - 1)])
    return TradeOff(epsilons, privacy_curve([event], epsilons))


def f_dp_epsilon(guesses: Guesses, event: SubsampledGaussian, delta: float, level: float = LEVEL) -> float:
    """The largest epsilon at ``delta`` that the guesses refute with confidence 1 - ``level``; 0.0 for none.

    ``event``: the steps that the study claims to have made.
    """

    def refuted(scale: float) -> bool:
        return not f_dp_possible(guesses, trade_off(scaled(event, scale)), level)

    if not refuted(_RANGE):
        return 0.0
    low, high = 1 / _RANGE, _RANGE  # ``high`` is refuted; ``low`` may be
    while high / low > 1 + _TOLERANCE:
        middle = (low * high) ** 0.5
        if refuted(middle):
            high = middle
        else:
            low = middle
    return epsilon([scaled(event, high)], delta)
