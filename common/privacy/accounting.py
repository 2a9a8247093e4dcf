"""Epsilon from mechanism events, at patient level under add or remove one patient.

The figure that counts is by privacy loss distributions (PLD; Koskela et al. 2020, Doroshenko et al.
2022), pessimistic: discretisation can only raise it. Segments with the same noise and rate are merged
before composing, and all unsampled Gaussians are composed into one exactly, so 10,000 steps cost well
under a second. Events that are all unsampled (q = 1, counts) need no grid: their epsilon is the
analytic one of Balle and Wang (2018). RDP is the cross-check, and the fall-back beyond what a grid can
hold. The result does not depend on the order of the events.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import dp_accounting
import numpy as np
from dp_accounting import rdp
from dp_accounting.pld import privacy_loss_distribution as pld
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from common.errors import UsageError
from common.privacy.events import MIN_SIGMA, Event, SubsampledGaussian

_RELATION = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
_LARGEST = 1000.0  # beyond the largest budget that a policy can hold, a bound is as good as the figure
_TOLERANCE = 2e-4  # of the noise multiplier, relative; the search may end two of these above the optimum

# (sigma, q, steps) of each distinct sampled mechanism, and the sum of count / sigma^2 of all unsampled ones.
_Segments = tuple[tuple[tuple[float, float, int], ...], float]


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` of all ``events`` together, by PLD; 0.0 for no events, ``inf`` if unbounded.

    Above 1,000, or where ``delta`` is below what the grid resolves (about 1e-15), the RDP bound stands
    in; it is never below the true figure. Raises UsageError unless 0 < delta < 1.
    """
    _check_delta(delta)
    return _epsilon_pld(_merge(events), float(delta))


def epsilon_rdp(events: Iterable[Event], delta: float) -> float:
    """Epsilon at ``delta`` by Renyi DP (Mironov 2017, converted as in Canonne et al. 2020), 6-15 % looser."""
    _check_delta(delta)
    return _epsilon_rdp(_merge(events), float(delta))


def privacy_curve(events: Iterable[Event], epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """The delta at each of ``epsilons`` [n] (0 or above) of all ``events`` together.

    By PLD, pessimistic; where no event is sampled, analytic (Balle and Wang 2018, Theorem 8). Raises
    UsageError for no events.
    """
    sampled, plain = segments = _merge(events)
    if not sampled and not plain:
        raise UsageError("a privacy curve of no events; expected at least one")
    if not sampled:
        mu = math.sqrt(plain)
        far = np.exp(epsilons + log_ndtr(-mu / 2 - epsilons / mu))
        return np.maximum(ndtr(mu / 2 - epsilons / mu) - far, 0.0)
    return np.asarray(_distribution(segments).get_delta_for_epsilon(epsilons), dtype=np.float64)


def noise_multiplier(target: float, delta: float, q: float, steps: int) -> float:
    """The smallest sigma whose ``steps`` steps at sampling rate ``q`` cost at most ``target`` epsilon at ``delta``.

    Within 0.1 % of the optimum, and on its private side: ``epsilon([SubsampledGaussian(sigma, q, steps)],
    delta) <= target`` holds. Raises UsageError unless 0.001 <= target <= 100, and where ``delta`` is not
    below a patient's chance of ever being drawn: then no noise at all would satisfy the claim.
    """
    _check_delta(delta)
    SubsampledGaussian(1.0, q, steps)  # checks q and steps
    if not 1e-3 <= target <= 100:
        raise UsageError(f"target epsilon = {target!r}: expected a number in 0.001..100")
    drawn = -math.expm1(steps * math.log1p(-q)) if q < 1 else 1.0
    if delta >= drawn / 2:
        raise UsageError(
            f"delta = {delta!r} is more than half of a patient's chance of being drawn in {steps} steps at rate {q!r} "
            f"({drawn:.3g}), so it would promise nothing",
            "Lower delta, or raise the sampling rate or the number of steps",
        )
    return _noise_multiplier(float(target), float(delta), float(q), steps)


@lru_cache(maxsize=256)
def _noise_multiplier(target: float, delta: float, q: float, steps: int) -> float:
    def excess(log_sigma: float) -> float:
        """Log of cost over target; steep and nearly straight in the log of sigma."""
        cost = epsilon([SubsampledGaussian(math.exp(log_sigma), q, steps)], delta)
        return math.log(max(cost, 1e-9) / target)

    # For small steps the sampled mechanism tends to a Gaussian with q times the loss: a good first guess.
    unsampled = math.log(dp_accounting.get_sigma_gaussian(target, delta) * math.sqrt(steps))
    low = high = unsampled if q == 1 else max(unsampled + math.log(q), math.log(0.3))
    while excess(high) > 0:
        low, high = high, high + (_TOLERANCE if q == 1 else 0.25)
    while q < 1 and excess(low) <= 0 and low > math.log(MIN_SIGMA):
        low, high = max(low - 0.25, math.log(MIN_SIGMA)), low
    if excess(low) <= 0:
        high = low  # exact, or the least noise that an event may have
    else:
        high = brentq(excess, low, high, xtol=_TOLERANCE)
        while excess(high) > 0:  # the root is within the tolerance on either side: take the private one
            high += _TOLERANCE
    return math.exp(high)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise UsageError(f"delta = {delta!r}: expected a number above 0 and below 1")


def _merge(events: Iterable[Event]) -> _Segments:
    """Merge equal mechanisms; the order of the result depends on their values alone."""
    steps: defaultdict[tuple[float, float], int] = defaultdict(int)
    plain: defaultdict[float, int] = defaultdict(int)
    for event in events:
        if isinstance(event, SubsampledGaussian) and event.q < 1:
            steps[float(event.sigma), float(event.q)] += event.steps
        else:
            plain[float(event.sigma)] += event.steps if isinstance(event, SubsampledGaussian) else event.count
    inverse_variance = math.fsum(count / sigma / sigma for sigma, count in sorted(plain.items()))
    return tuple((sigma, q, n) for (sigma, q), n in sorted(steps.items())), inverse_variance


@lru_cache(maxsize=1024)
def _epsilon_pld(segments: _Segments, delta: float) -> float:
    sampled, plain = segments
    if not sampled:
        return _epsilon_gaussian(plain, delta)
    # Sampling only lowers the loss, so the unsampled figure bounds the size of the grid.
    unsampled = plain + math.fsum(n / sigma / sigma for sigma, _, n in sampled)
    if _epsilon_gaussian(unsampled, delta) > _LARGEST and (bound := _epsilon_rdp(segments, delta)) > _LARGEST:
        return bound
    figure = float(_distribution(segments).get_epsilon_for_delta(delta))
    return figure if math.isfinite(figure) else _epsilon_rdp(segments, delta)


def _distribution(segments: _Segments) -> pld.PrivacyLossDistribution:
    """The privacy loss of all segments together, on one grid."""
    sampled, plain = segments
    interval = _interval(segments)
    for count in range(len(sampled) + 1):  # from the first on, so that a long ledger does not nest calls
        whole = _together(sampled[:count], interval)
    return whole.compose(_gaussian(1 / math.sqrt(plain), 1.0, interval)) if plain else whole


# A budget is asked for many mixes of the same segments (after each study, at each time), so what they share is kept.
@lru_cache(maxsize=64)
def _together(sampled: tuple[tuple[float, float, int], ...], interval: float) -> pld.PrivacyLossDistribution:
    """The loss of sampled segments, composed from the first to the last."""
    if not sampled:
        return pld.identity(interval)
    return _together(sampled[:-1], interval).compose(_steps(*sampled[-1], interval))


@lru_cache(maxsize=64)
def _steps(sigma: float, q: float, n: int, interval: float) -> pld.PrivacyLossDistribution:
    """The loss of one segment."""
    return _gaussian(sigma, q, interval).self_compose(n)


def _gaussian(sigma: float, q: float, interval: float) -> pld.PrivacyLossDistribution:
    return pld.from_gaussian_mechanism(
        sigma, value_discretization_interval=interval, sampling_prob=q, neighboring_relation=_RELATION
    )


def _interval(segments: _Segments) -> float:
    """Width of the loss grid: a twentieth of the root-mean-square loss of a step, so that the rounding of
    n steps adds under 0.1 % to their spread; wider where a single step's loss would need over 300,000 cells.

    Of several segments it is the next power of two below, so that other mixes of them are composed on the same grid.
    """
    sampled, plain = segments
    parts = [(q / sigma, n) for sigma, q, n in sampled] + ([(math.sqrt(plain), 1)] if plain else [])
    spread = math.sqrt(math.fsum(n * s * s for s, n in parts) / sum(n for _, n in parts))
    largest = max(math.log1p(q * math.expm1(min(700.0, 0.5 / sigma**2 + 8 / sigma))) for sigma, q, _ in sampled)
    width = min(1e-3, max(spread / 20, largest / 3e5, 1e-8))
    return width if len(parts) == 1 else 2.0 ** math.floor(math.log2(width))


@lru_cache(maxsize=1024)
def _epsilon_rdp(segments: _Segments, delta: float) -> float:
    if segments == ((), 0.0):
        return 0.0
    accountant = rdp.RdpAccountant(neighboring_relation=_RELATION)
    sampled, plain = segments
    with _quiet_absl():
        for sigma, q, n in sampled:
            accountant.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma)), n)
        if plain:
            accountant.compose(dp_accounting.GaussianDpEvent(1 / math.sqrt(plain)))
        return float(accountant.get_epsilon(delta))


def _epsilon_gaussian(inverse_variance: float, delta: float) -> float:
    """Balle and Wang (2018), Theorem 8, for one Gaussian with sigma = inverse_variance ** -0.5."""
    if inverse_variance == 0:
        return 0.0
    if math.isinf(inverse_variance):
        return math.inf
    with np.errstate(divide="ignore"):  # log of a delta that is 0 in floating point: meant
        return float(dp_accounting.get_epsilon_gaussian(1 / math.sqrt(inverse_variance), delta))


@contextmanager
def _quiet_absl() -> Iterator[None]:
    """The RDP accountant warns of each fractional order whose series does not converge. It leaves that
    order out, which loosens the bound and does not break it: nothing for a user to act on.
    """
    logger = logging.getLogger("absl")

    def drop(record: logging.LogRecord) -> bool:
        return "failed to converge" not in record.getMessage()

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
