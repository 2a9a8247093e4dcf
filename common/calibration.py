"""Whether predicted probabilities mean what they say, and where to cut them: from the histograms of ``Counts``.

A case in a bin is taken at the bin's middle, which is off by half a bin (1 / 2B) at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from common.metrics import Counts, Floats

GROUPS = 8
"""Points of a reliability curve: neighbouring bins together, since single ones hold too few cases."""


def bin_middles(bins: int) -> Floats:
    """The middles of B equal bins of [0, 1]."""
    return np.asarray((np.arange(bins) + 0.5) / bins)


def reliability(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """Of each class and group: cases, those of the class, and the sum of their predicted probabilities; [C, GROUPS].

    Where B is not a multiple of ``GROUPS``, the first groups are a bin wider.
    """
    real = counts.clamped().scores
    parts = np.array_split(np.arange(counts.bins), GROUPS)
    everyone = real.sum(axis=1)
    weighed = everyone * bin_middles(counts.bins)
    grouped = (
        np.stack([table[:, part].sum(axis=1) for part in parts], axis=1) for table in (everyone, real[:, 1], weighed)
    )
    cases, hits, predicted = grouped
    return cases, hits, predicted


def calibration_error(counts: Counts) -> Floats:
    """Expected calibration error by class, [C]: the mean gap between predicted and observed share, over the groups.

    Naeini et al. (AAAI 2015), for each class against the rest. Biased upwards where groups hold few cases; NaN
    without cases.
    """
    cases, hits, predicted = reliability(counts)
    total = cases.sum(axis=1)
    gaps = np.abs(hits - predicted).sum(axis=1)
    error: Floats = np.divide(gaps, total, out=np.full_like(gaps, np.nan), where=total > 0)
    return error


def brier_losses(bins: int) -> Floats:
    """Squared distance of the probability from 0 and from 1, averaged over each bin, [2, B]."""
    edges = np.arange(bins + 1) / bins
    of_negative = np.diff(edges**3) / 3 * bins
    return np.stack([of_negative, of_negative[::-1]])


def brier(counts: Counts) -> float:
    """Brier's score (1950), 0 (best) to 2: the squared distance of the probabilities from the truth, summed over classes.

    NaN without cases. Each probability is off by at most 1/B within its bin, so the score by less than 2C / B.
    """
    real = counts.clamped()
    total = real.confusion.sum()
    return float((real.scores * brier_losses(counts.bins)).sum() / total) if total > 0 else float("nan")


def threshold_for(counts: Counts, index: int, sensitivity: float) -> float | None:
    """The highest probability at which to call a case of class ``index`` so that ``sensitivity`` of them are called.

    A bin's lower edge; None without cases of the class.
    """
    positives = counts.clamped().scores[index, 1]
    total = positives.sum()
    if total <= 0:
        return None
    reached = positives[::-1].cumsum()[::-1] / total  # share at or above each bin
    enough = np.flatnonzero(reached >= sensitivity - 1e-9)
    return float(enough[-1] / counts.bins)


def called(counts: Counts, index: int, threshold: float) -> tuple[float, float, float, float]:
    """TP, FP, FN and TN where a case is called class ``index`` from ``threshold`` (a bin's edge) on."""
    negatives, positives = counts.clamped().scores[index]
    cut = round(threshold * counts.bins)
    return (
        float(positives[cut:].sum()),
        float(negatives[cut:].sum()),
        float(positives[:cut].sum()),
        float(negatives[:cut].sum()),
    )
