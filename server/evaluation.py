"""From merged counts to metrics with 95 % intervals.

Every interval is in closed form, so that a page shows the same figures each time:

=================  =====================================================================================
proportions        Wilson score interval (Wilson, JASA 1927)
F1                 F1 = 2J / (1 + J) with J = TP / (TP + FP + FN), a proportion: Wilson on J, mapped
AUROC              Newcombe's score form of Hanley and McNeil's variance (Stat. Med. 2006, method 5),
                   widened by the largest error of binning
balanced accuracy  MOVER over the classes' Wilson intervals (Zou and Donner, Stat. Med. 2008)
macro F1, AUROC    mean of the classes' lower and of their upper limits: valid, and wide, however the
                   classes depend on one another
log loss           normal, from the variance within the histogram
others             see ``server.calibration``
=================  =====================================================================================

None of them collapses at 0 or 1. They hold for cases drawn at random from the same hospitals; they
say nothing about another hospital, nor about the luck of training.

Noise. Where counts carry Gaussian noise of standard deviation s on every entry, a figure t(counts)
gets a noise variance v = s^2 * sum over entries of (dt / d entry)^2 (delta method), and each half
width w becomes sqrt(w^2 + z^2 v). A ratio whose denominator of m entries is below
``MIN_CASES + 4 s sqrt(m)`` is reported as drowned in the noise instead. Just above that
bound, intervals hold somewhat less often than 95 times in 100: noise that adds cases passes it more often.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from common import metrics
from common.metrics import Counts
from server.calibration import (
    average_precision,
    brier,
    calibration_error,
    kappa,
    operating_points,
    reliability_curves,
)
from server.intervals import Z, auroc_interval, no_figure, proportion, square, widen
from server.results import ClassMetrics, Estimate, FinalMetrics, Metrics, RocCurve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def evaluate(counts: Counts, classes: Sequence[str], noise_std: float = 0.0) -> Metrics:
    """Metrics of merged ``counts``, for ``classes`` in the order of the study.

    ``noise_std``: standard deviation of the Gaussian noise on each entry of ``counts``; for a sum of
    releases, the root of the sum of their squares. Raises ValueError if it is not finite and >= 0, or
    if the names don't match the counts.
    """
    if len(classes) != counts.classes:
        raise ValueError(f"classes has {len(classes)} names; expected {counts.classes}, as the counts have")
    if not (math.isfinite(noise_std) and noise_std >= 0):
        raise ValueError(f"noise_std is {noise_std}; expected a finite number >= 0")
    real = counts.clamped()
    per_class = tuple(_class_metrics(real, index, name, noise_std) for index, name in enumerate(classes))
    size = real.classes
    return Metrics(
        cases=_total(real),
        noise_std=noise_std,
        confusion=tuple(tuple(row) for row in real.confusion.tolist()),
        accuracy=proportion(float(np.trace(real.confusion)), _total(real), noise_std, (size, size * size - size)),
        balanced_accuracy=_mover([item.sensitivity for item in per_class]),
        macro_f1=_mean([item.f1 for item in per_class]),
        macro_auroc=_mean([item.auroc for item in per_class]),
        macro_auprc=_mean([item.auprc for item in per_class]),
        kappa=kappa(real, noise_std),
        log_loss=_log_loss(real, noise_std),
        brier=brier(counts, noise_std),
        calibration_error=calibration_error(real, noise_std),
        classes=per_class,
    )


def final_metrics(released: Mapping[str, tuple[Counts, float]], classes: Sequence[str]) -> FinalMetrics:
    """The final model from what each site released: its counts and the noise_std on them.

    A site that released nothing is left out. Sites pool by adding counts and noise variances.
    """
    if not released:
        return FinalMetrics()
    pooled = sum((counts for counts, _ in released.values()), start=_like(released))
    noise_std = math.hypot(*(noise for _, noise in released.values()))
    return FinalMetrics(
        pooled=evaluate(pooled, classes, noise_std),
        per_site={site: evaluate(counts, classes, noise) for site, (counts, noise) in sorted(released.items())},
        roc=roc_curves(pooled, classes),
        reliability=reliability_curves(pooled, classes, noise_std),
        operating=operating_points(released, classes),
    )


def roc_curves(counts: Counts, classes: Sequence[str]) -> tuple[RocCurve, ...]:
    """One curve a class against the rest; classes without positives or without negatives are left out."""
    curves = []
    for index, name in enumerate(classes):
        false_rate, true_rate = metrics.roc_points(counts, index)
        if np.isfinite(false_rate).all() and np.isfinite(true_rate).all():
            # Cumulative sums can end a rounding error above 1.
            false_rate, true_rate = np.clip(false_rate, 0, 1), np.clip(true_rate, 0, 1)
            curves.append(
                RocCurve(name=name, false_positive_rate=tuple(false_rate), true_positive_rate=tuple(true_rate))
            )
    return tuple(curves)


def _class_metrics(real: Counts, index: int, name: str, noise: float) -> ClassMetrics:
    """One class against the rest. Entries behind each count matter for the noise: see the module."""
    tp, fp, fn, tn = (float(values[index]) for values in metrics.one_vs_rest(real))
    others = real.classes - 1
    return ClassMetrics(
        name=name,
        cases=tp + fn,
        sensitivity=proportion(tp, tp + fn, noise, (1, others)),
        specificity=proportion(tn, tn + fp, noise, (others * others, others)),
        ppv=proportion(tp, tp + fp, noise, (1, others)),
        npv=proportion(tn, tn + fn, noise, (others * others, others)),
        f1=_f1(tp, tp + fp + fn, noise, others),
        auroc=_auroc(real, index, noise),
        auprc=average_precision(real, index, noise),
    )


def _f1(tp: float, union: float, noise: float, others: int) -> Estimate:
    jaccard = proportion(tp, union, noise, (1, 2 * others))
    if jaccard.value is None or jaccard.low is None or jaccard.high is None:
        return jaccard.model_copy(update={"hits": None})
    value, low, high = (2 * x / (1 + x) for x in (jaccard.value, jaccard.low, jaccard.high))
    return Estimate(value=value, low=low, high=high, cases=union)


def _auroc(real: Counts, index: int, noise: float) -> Estimate:
    """AUROC of one class; ``cases`` is the smaller side, on which the figure rests."""
    negatives, positives = real.scores[index]
    below, above = float(negatives.sum()), float(positives.sum())
    note = no_figure(min(below, above), noise, real.confusion.size - real.classes)
    if note is not None:
        return note
    area = min(1.0, max(0.0, float(metrics.auroc(real)[index])))
    # What one more positive, or negative, in each bin would win.
    of_positive = (negatives.cumsum() - negatives / 2) / below
    of_negative = 1 - (positives.cumsum() - positives / 2) / above
    variance = noise**2 * (square(of_positive - area) / above**2 + square(of_negative - area) / below**2)
    slack = float(metrics.auroc_binning_error(real)[index])
    low, high = widen(area, auroc_interval(area, above, below), variance)
    return Estimate(value=area, low=max(0.0, low - slack), high=min(1.0, high + slack), cases=min(below, above))


def _log_loss(real: Counts, noise: float) -> Estimate:
    histogram = real.scores[:, 1].sum(axis=0)
    size = float(histogram.sum())
    note = no_figure(size, noise, real.confusion.size)
    if note is not None:
        return note
    losses = metrics.bin_losses(real.bins)
    value = metrics.log_loss(real)
    sampling = float((histogram * (losses - value) ** 2).sum()) / size**2
    # Each bin of this histogram is a sum over classes, so its noise is too.
    released = noise**2 * real.classes * square(losses - value) / size**2
    half = Z * math.sqrt(sampling + released)
    return Estimate(value=value, low=max(0.0, value - half), high=value + half, cases=size)


def _mover(parts: Sequence[Estimate]) -> Estimate:
    """Mean of independent estimates: distances to the limits add in squares (MOVER)."""
    joined = _mean(parts)
    if joined.value is None:
        return joined
    triples = [
        (p.value, p.low, p.high) for p in parts if p.value is not None and p.low is not None and p.high is not None
    ]
    down = math.hypot(*(value - low for value, low, _ in triples)) / len(parts)
    up = math.hypot(*(high - value for value, _, high in triples)) / len(parts)
    update = {"low": max(0.0, joined.value - down), "high": min(1.0, joined.value + up)}
    return joined.model_copy(update=update)


def _mean(parts: Sequence[Estimate]) -> Estimate:
    """Mean of values and of limits; without a value where a part has none. ``cases``: the fewest."""
    fewest = min(parts, key=lambda part: part.cases)
    missing = [part for part in parts if part.value is None]
    if missing:
        worst = min(missing, key=lambda part: part.cases)
        return Estimate(cases=worst.cases, note=worst.note)
    value, low, high = (sum(getattr(part, field) for part in parts) / len(parts) for field in ("value", "low", "high"))
    return Estimate(value=value, low=low, high=high, cases=fewest.cases)


def _total(real: Counts) -> float:
    return float(real.confusion.sum())


def _like(released: Mapping[str, tuple[Counts, float]]) -> Counts:
    """Counts of nobody in the shape of those released."""
    first = next(iter(released.values()))[0]
    return Counts.zero(first.classes, first.bins)
