"""Kappa, precision-recall, calibration and operating points of merged counts, with 95 % intervals.

===================  ====================================================================================
kappa                normal, by Fleiss, Cohen and Everitt's variance (1969), and never narrower than
                     accuracy's Wilson interval at the same agreement by chance
AUPRC                Boyd, Eng and Page's logit interval (ECML 2013), widened to all that binning can hide
Brier score          normal; the classes' standard deviations add, however they depend on one another;
                     from the counts as released, of which it is a linear figure
calibration error    none: it is biased upwards where cases are few; the reliability curve has intervals
operating point      Wilson; the threshold of a hospital's cases comes from the *other* hospitals
===================  ====================================================================================

Noise enters as in ``server.evaluation``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, logit

from common import calibration, metrics
from server.intervals import Z, no_figure, proportion, square, widen, wilson
from server.results import Estimate, OperatingPoint, ReliabilityCurve, ReliabilityPoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from common.metrics import Counts, Floats
    from server.intervals import Interval

SENSITIVITY = 0.95
"""What operating points are asked for."""


def kappa(real: Counts, noise: float) -> Estimate:
    """Cohen's kappa of exact or clamped counts."""
    cases = float(real.confusion.sum())
    note = no_figure(cases, noise, real.confusion.size)
    value, slope = metrics.kappa(real), metrics.kappa_gradient(real)
    if note is not None or math.isnan(value):
        return note or Estimate(cases=cases, note="few-cases")
    half = Z * math.sqrt(float((real.confusion * slope**2).sum()) + noise**2 * square(slope))
    hits = float(np.trace(real.confusion))
    chance = (hits / cases - value) / (1 - value) if value < 1 else _chance(real)
    low, high = ((limit - chance) / (1 - chance) for limit in wilson(hits, cases))
    return Estimate(
        value=value, low=max(-1.0, min(low, value - half)), high=min(1.0, max(high, value + half)), cases=cases
    )


def _chance(real: Counts) -> float:
    """Agreement by chance where there is no disagreement."""
    shares = real.confusion.sum(axis=1) / real.confusion.sum()
    return square(shares)


def average_precision(real: Counts, index: int, noise: float) -> Estimate:
    """AUPRC of one class; ``cases`` is the smaller side."""
    negatives, positives = real.scores[index]
    above, below = float(positives.sum()), float(negatives.sum())
    note = no_figure(min(above, below), noise, real.confusion.size - real.classes)
    if note is not None:
        return note
    area = float(metrics.average_precision(real)[index])
    least, most = (float(limits[index]) for limits in metrics.average_precision_bounds(real))
    low, high = widen(area, precision_interval(area, above), noise**2 * square(_slopes(real.scores[index], area)))
    return Estimate(
        value=area, low=max(0.0, low - (area - least)), high=min(1.0, high + (most - area)), cases=min(above, below)
    )


def precision_interval(area: float, positives: float) -> Interval:
    """95 % logit interval of an AUPRC; within half a case of 0 and 1 it is that of half a case."""
    inside = min(max(area, 0.5 / positives), 1 - 0.5 / positives)
    half = Z / math.sqrt(positives * inside * (1 - inside))
    return min(area, float(expit(logit(inside) - half))), max(area, float(expit(logit(inside) + half)))


def _slopes(scores: Floats, area: float) -> Floats:
    """Derivative of the average precision by each entry of the histograms [2, B]."""
    negatives, positives = scores[:, ::-1]
    true, false = positives.cumsum(), negatives.cumsum()
    called = true + false
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    weight = np.divide(positives, called**2, out=np.zeros_like(true), where=called > 0) / positives.sum()
    later_false, later_true = ((weight * part)[::-1].cumsum()[::-1] for part in (false, true))
    return np.stack([-later_true, (precision - area) / positives.sum() + later_false])


def brier(counts: Counts, noise: float) -> Estimate:
    """Brier's score, 0 to 2, of counts as they were released.

    The score is linear in the histograms, so noise leaves it unbiased as long as nothing is clamped; clamped counts
    serve for the sampling variance alone, and to take each class's mean off first, which shrinks the noise.
    """
    real = counts.clamped()
    size = float(real.confusion.sum())
    note = no_figure(size, noise, real.confusion.size)
    if note is not None:
        return note
    losses = calibration.brier_losses(real.bins)
    means = (real.scores * losses).sum(axis=(1, 2)) / size
    apart = losses[None] - means[:, None, None]
    sampling = float(np.sqrt((real.scores * apart**2).sum(axis=(1, 2))).sum() / size) ** 2
    value = min(2.0, max(0.0, float(means.sum() + (counts.scores * apart).sum() / size)))
    half = Z * math.sqrt(sampling + noise**2 * square(apart) / size**2)
    return Estimate(value=value, low=max(0.0, value - half), high=min(2.0, value + half), cases=size)


def calibration_error(real: Counts, noise: float) -> Estimate:
    """Mean over the classes of the expected calibration error; without an interval."""
    size = float(real.confusion.sum())
    # Every group adds the size of its noise, whatever the truth: few cases against it say nothing.
    note = no_figure(size, noise, real.scores.size)
    if note is not None:
        return note
    return Estimate(value=float(calibration.calibration_error(real).mean()), cases=size)


def reliability_curves(counts: Counts, classes: Sequence[str], noise: float) -> tuple[ReliabilityCurve, ...]:
    """One curve a class; a point where a group of bins holds enough cases for a share."""
    real = counts.clamped()
    cases, hits, predicted = calibration.reliability(real)
    width = real.bins // calibration.GROUPS + 1
    curves = []
    for index, name in enumerate(classes):
        points = []
        for group in range(calibration.GROUPS):
            size = float(cases[index, group])
            observed = proportion(float(hits[index, group]), size, noise, (width, width))
            if observed.value is not None:
                points.append(
                    ReliabilityPoint(predicted=min(1.0, float(predicted[index, group]) / size), observed=observed)
                )
        curves.append(ReliabilityCurve(name=name, points=tuple(points)))
    return tuple(curves)


def operating_points(
    released: Mapping[str, tuple[Counts, float]], classes: Sequence[str]
) -> tuple[OperatingPoint, ...]:
    """Of each class, the threshold for ``SENSITIVITY`` and what it gives on cases that did not choose it.

    ``threshold`` is that of all hospitals together. For sensitivity and specificity each hospital's cases are cut
    at the threshold of the others, and the counts added up: with one hospital there are none.
    """
    if len(released) < 2:
        return ()
    everyone = sum((counts for counts, _ in list(released.values())[1:]), start=next(iter(released.values()))[0])
    noise = math.hypot(*(std for _, std in released.values()))
    found = []
    for index, name in enumerate(classes):
        threshold = calibration.threshold_for(everyone, index, SENSITIVITY)
        if threshold is None:
            continue
        totals = np.zeros(4)
        for site, (counts, _) in released.items():
            others = [other for key, (other, _) in released.items() if key != site]
            chosen = calibration.threshold_for(sum(others[1:], start=others[0]), index, SENSITIVITY)
            if chosen is not None:
                totals += calibration.called(counts, index, chosen)
        tp, fp, fn, tn = (float(total) for total in totals)
        half = (everyone.bins, everyone.bins)
        found.append(
            OperatingPoint(
                name=name,
                wanted=SENSITIVITY,
                threshold=threshold,
                sensitivity=proportion(tp, tp + fn, noise, half),
                specificity=proportion(tn, tn + fp, noise, half),
            )
        )
    return tuple(found)
