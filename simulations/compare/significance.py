"""Tests of a difference between two models, and the correction for making many of them.

===========================  =====================================================================================
corrected resampled t-test   over K folds: Student's t on the differences, with the variance times 1/K + 1/(K - 1)
                             in place of 1/K, since training sets overlap (Nadeau and Bengio, Mach. Learn. 2003)
Wilcoxon signed-rank         over K folds, exact; its p-value can't be below 2^(1 - K)
McNemar                      exact, on the patients that one model judges better than the other (binomial, 1/2)
DeLong                       areas under two correlated ROC curves (DeLong et al., Biometrics 1988), here for the
                             mean over classes against the rest, from the midranks of Sun and Xu (2014)
Holm                         step-down p-values (Scand. J. Stat. 1979): the chance of any false claim stays below 5 %
===========================  =====================================================================================

All are two-sided. Where a test can say nothing, its p-value is None and ``note`` says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from server.intervals import MIN_CASES

LEVEL = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Finding:
    """What a test found. ``low`` and ``high``: 95 % interval of ``difference``, where the test gives one."""

    p: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


def corrected_t(differences: Sequence[float]) -> Finding:
    """Of the K differences that folds gave, one each. ValueError for fewer than two."""
    values = np.asarray(differences, dtype=np.float64)
    count = len(values)
    if count < 2:
        raise ValueError(f"{count} differences; expected at least two folds")
    mean, variance = float(values.mean()), float(values.var(ddof=1))
    if variance <= 1e-24:  # rounding of equal differences
        if abs(mean) <= 1e-12:
            return Finding(1.0, 0.0, note="the models did equally well in every fold")
        return Finding(None, mean, note="the folds all differ by the same amount, which gives no spread to test with")
    error = math.sqrt(variance * (1 / count + 1 / (count - 1)))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Finding(2 * float(stats.t.sf(abs(mean) / error, count - 1)), mean, mean - reach, mean + reach)


def wilcoxon(differences: Sequence[float]) -> Finding:
    """Of the K differences that folds gave; folds without a difference are left out, as Wilcoxon did."""
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.abs(values) > 1e-12]
    if not len(values):
        return Finding(1.0, 0.0, note="the models did equally well in every fold")
    tied = len(np.unique(np.abs(values).round(12))) < len(values)
    if tied and len(values) <= 16:  # scipy's exact method is for ranks without ties; this draws all signs
        p = float(stats.wilcoxon(values, method=stats.PermutationMethod(n_resamples=2**16)).pvalue)
    else:
        p = float(stats.wilcoxon(values).pvalue)
    least = 2.0 ** (1 - len(values))
    note = f"with {len(values)} differing folds it can't be below {least:.3g}" if least > LEVEL else ""
    return Finding(p, float(np.median(values)), note=note)


def mcnemar(better: int, worse: int) -> Finding:
    """Of the patients that the first model judges better, and worse, than the second."""
    if better + worse == 0:
        return Finding(1.0, note="the models were right and wrong for the same patients")
    return Finding(float(stats.binomtest(better, better + worse, 0.5).pvalue))


def paired_interval(better: int, worse: int, cases: int) -> tuple[float, float]:
    """95 % interval of a difference of two proportions of the same ``cases`` patients.

    Wald's with half a patient added to each cell (Agresti and Min, Stat. Med. 2005).
    """
    first, second, total = better + 0.5, worse + 0.5, cases + 2
    middle = (first - second) / total
    error = math.sqrt(first + second - (first - second) ** 2 / total) / total
    reach = float(stats.norm.ppf(0.975)) * error
    return max(-1.0, middle - reach), min(1.0, middle + reach)


def delong(labels: NDArray[np.int64], first: Floats, second: Floats) -> Finding:
    """Of the mean AUROC of two models for the same patients.

    ``labels`` [n] in 0..C-1; ``first`` and ``second`` [n, C]: the probabilities of each model.
    """
    counts = np.bincount(labels, minlength=first.shape[1])
    if counts.min() < MIN_CASES or (len(labels) - counts).min() < MIN_CASES:
        return Finding(None, note=f"a class has fewer than {MIN_CASES:g} patients")
    area_first, part_first = _area(labels, first)
    area_second, part_second = _area(labels, second)
    difference = area_first - area_second
    error = math.sqrt(float(((part_first - part_second) ** 2).sum()))
    if error <= 1e-12:
        equal = abs(difference) <= 1e-12
        note = "the models rank the patients alike" if equal else "no spread to test with"
        return Finding(1.0 if equal else None, difference, note=note)
    reach = float(stats.norm.ppf(0.975)) * error
    p = 2 * float(stats.norm.sf(abs(difference) / error))
    return Finding(p, difference, difference - reach, difference + reach)


def _area(labels: NDArray[np.int64], scores: Floats) -> tuple[float, Floats]:
    """Mean AUROC over classes against the rest, and each patient's part in it: squares add up to its variance."""
    classes = scores.shape[1]
    areas, parts = [], np.zeros(len(labels))
    for index in range(classes):
        own = labels == index
        positives, negatives = int(own.sum()), int((~own).sum())
        column = scores[:, index]
        ranks = stats.rankdata(column)
        won = np.empty(len(labels))
        won[own] = (ranks[own] - stats.rankdata(column[own])) / negatives
        won[~own] = 1 - (ranks[~own] - stats.rankdata(column[~own])) / positives
        area = float(won[own].mean())
        scale = np.where(own, positives * (positives - 1), negatives * (negatives - 1))
        # Below a positive is good, above a negative is: both parts push the area the same way.
        parts += (won - area) / np.sqrt(scale) / classes
        areas.append(area)
    return float(np.mean(areas)), parts


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values in the order given; tests that said nothing are not counted."""
    known = sorted((p, index) for index, p in enumerate(values) if p is not None)
    adjusted: list[float | None] = [None] * len(values)
    highest = 0.0
    for place, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - place)))
        adjusted[index] = highest
    return adjusted
