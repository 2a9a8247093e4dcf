"""The building blocks of ``server.evaluation``: intervals in closed form, and when a figure is withheld."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scipy.optimize import brentq

from server.results import Estimate

if TYPE_CHECKING:
    from common.metrics import Floats

Z = 1.959963984540054  # 97.5 % point of the normal distribution
MIN_CASES = 5.0
NOISE_MARGIN = 4.0  # a denominator within this many standard deviations of its noise is not used
Interval = tuple[float, float]


def wilson(hits: float, cases: float) -> Interval:
    """95 % Wilson score interval of ``hits`` out of ``cases`` > 0; both may be fractional."""
    share, square = hits / cases, Z * Z
    centre = (share + square / (2 * cases)) / (1 + square / cases)
    half = Z * math.sqrt(share * (1 - share) / cases + square / (4 * cases * cases)) / (1 + square / cases)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))


def auroc_interval(area: float, positives: float, negatives: float) -> Interval:
    """95 % interval of an AUROC: the areas t with (t - area)^2 <= z^2 V(t).

    V(t) = t (1 - t) [1 + N (1 - t) / (2 - t) + N t / (1 + t)] / (positives * negatives), where
    N = (positives + negatives) / 2 - 1 (Newcombe 2006, method 5).
    """
    mean = max((positives + negatives) / 2 - 1, 0.0)

    def excess(t: float) -> float:
        shape = 1 + mean * (1 - t) / (2 - t) + mean * t / (1 + t)
        return (t - area) ** 2 - Z * Z * t * (1 - t) * shape / (positives * negatives)

    # excess is not negative at 0 and at 1; strictly inside, at the area or next to it, it is negative.
    inside = min(max(area, 1e-9), 1 - 1e-9)
    low = float(brentq(excess, 0.0, inside)) if area > 0 else 0.0
    high = float(brentq(excess, inside, 1.0)) if area < 1 else 1.0
    return low, high


def proportion(hits: float, cases: float, noise: float, entries: tuple[int, int]) -> Estimate:
    """``hits`` / ``cases``; ``entries``: how many counts the hits sum over, and the misses."""
    note = no_figure(cases, noise, sum(entries))
    if note is not None:
        return note.model_copy(update={"hits": hits})
    share = hits / cases
    variance = noise**2 * (entries[0] * (1 - share) ** 2 + entries[1] * share**2) / cases**2
    low, high = widen(share, wilson(hits, cases), variance)
    return Estimate(value=share, low=low, high=high, hits=hits, cases=cases)


def no_figure(cases: float, noise: float, entries: int) -> Estimate | None:
    """An estimate without a value if ``cases`` are too few for one, else None."""
    if cases <= 0 and noise == 0:
        return Estimate(cases=0.0, note="no-cases")
    if noise > 0 and cases < MIN_CASES + NOISE_MARGIN * noise * math.sqrt(entries):
        return Estimate(cases=cases, note="noise")
    # Weights such as 1/3 add up to a little less than the whole.
    if cases < MIN_CASES - 1e-6:
        return Estimate(cases=cases, note="few-cases")
    return None


def widen(value: float, interval: Interval, variance: float) -> Interval:
    """Limits moved away from ``value`` for an independent error of this variance, within [0, 1]."""
    spread = Z * math.sqrt(variance)
    return max(0.0, value - math.hypot(value - interval[0], spread)), min(
        1.0, value + math.hypot(interval[1] - value, spread)
    )


def square(values: Floats) -> float:
    """Sum of the squares."""
    return float((values**2).sum())
