"""Mergeable clinical counts, and the metrics that follow from them.

A site evaluates a model on its held-out patients and releases only ``Counts``: a confusion matrix and,
for each class, two histograms of the predicted probability. Counts of sites add up, and every metric
is a pure function of the sum, so the pooled result needs no patient's value. One patient has a total
weight of 1, however many examples it has: a case is a patient.

Counts that a site released with noise may be negative. Every metric first calls ``Counts.clamped``,
which returns the nearest counts that could be real; exact counts pass through unchanged. What is
undefined (no cases) is NaN, never 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]

_ROW_TOLERANCE = 1e-3  # single-precision softmax rows over 64 classes sum to 1 well within this


@dataclass(frozen=True, eq=False)
class Counts:
    """Weighted counts over cases, for C classes and B bins.

    ``confusion``: float64 [C, C], rows the true class, columns the predicted one.
    ``scores``: float64 [C, 2, B], for each class against the rest the histogram over B equal bins of
    [0, 1] of the probability predicted for that class; row 0 counts negatives, row 1 positives.
    Both arrays are copied and read-only. Raises ValueError naming the value on a wrong shape or a
    value that is not finite.
    """

    confusion: Floats
    scores: Floats

    def __post_init__(self) -> None:
        confusion = np.array(self.confusion, dtype=np.float64)
        scores = np.array(self.scores, dtype=np.float64)
        if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or confusion.shape[0] < 2:
            raise ValueError(f"confusion has shape {confusion.shape}; expected (C, C) with C >= 2")
        if scores.ndim != 3 or scores.shape[:2] != (len(confusion), 2) or scores.shape[2] < 1:
            raise ValueError(f"scores has shape {scores.shape}; expected ({len(confusion)}, 2, B) with B >= 1")
        for name, array in (("confusion", confusion), ("scores", scores)):
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds {array[~np.isfinite(array)][0]}; expected finite counts")
            array.setflags(write=False)
        object.__setattr__(self, "confusion", confusion)
        object.__setattr__(self, "scores", scores)

    @property
    def classes(self) -> int:
        """C, the number of classes."""
        return int(self.confusion.shape[0])

    @property
    def bins(self) -> int:
        """B, the number of bins of a histogram."""
        return int(self.scores.shape[2])

    @classmethod
    def zero(cls, classes: int, bins: int) -> Counts:
        """Counts over nobody: the neutral element of ``+``."""
        return cls(np.zeros((classes, classes)), np.zeros((classes, 2, bins)))

    @classmethod
    def of(cls, labels: ArrayLike, probabilities: ArrayLike, bins: int, weights: ArrayLike | None = None) -> Counts:
        """Count n examples.

        ``labels``: integers [n] in 0..C-1. ``probabilities``: [n, C], rows summing to 1; the first
        largest is the prediction. ``weights``: [n], not negative, 1 by default; give each example of a
        patient 1/k where the patient has k. Raises ValueError naming the value that is out of range.
        """
        truth, proba, weight = _checked(labels, probabilities, weights)
        count, classes = proba.shape
        confusion = np.zeros((classes, classes))
        np.add.at(confusion, (truth, proba.argmax(axis=1)), weight)
        scores = np.zeros((classes, 2, bins))
        column = np.broadcast_to(np.arange(classes), (count, classes))
        slot = np.minimum((proba * bins).astype(np.int64), bins - 1)
        positive = (truth[:, None] == column).astype(np.int64)
        np.add.at(scores, (column, positive, slot), np.broadcast_to(weight[:, None], (count, classes)))
        return cls(confusion, scores)

    def __add__(self, other: Counts) -> Counts:
        """Counts over both groups of cases. Raises ValueError if classes or bins differ."""
        if self.scores.shape != other.scores.shape:
            raise ValueError(
                f"counts of {self.classes} classes and {self.bins} bins can't be added to counts of "
                f"{other.classes} classes and {other.bins} bins; expected the same study"
            )
        return Counts(self.confusion + other.confusion, self.scores + other.scores)

    def to_vector(self) -> Floats:
        """Flat float64 [C*C + 2*C*B]: the confusion matrix row by row, then ``scores`` in C order."""
        return np.concatenate([self.confusion.ravel(), self.scores.ravel()])

    @classmethod
    def from_vector(cls, vector: ArrayLike, classes: int, bins: int) -> Counts:
        """Inverse of ``to_vector``. Raises ValueError on a wrong length or a value that is not finite."""
        flat = np.asarray(vector, dtype=np.float64)
        if flat.shape != (vector_length(classes, bins),):
            raise ValueError(f"vector has shape {flat.shape}; expected ({vector_length(classes, bins)},)")
        cut = classes * classes
        return cls(flat[:cut].reshape(classes, classes), flat[cut:].reshape(classes, 2, bins))

    def clamped(self) -> Counts:
        """The nearest counts without negative entries.

        Each row of the confusion matrix is projected (least squares) onto the non-negative rows of
        the same total, clamped at 0; each histogram onto those whose total the confusion matrix
        implies. Clamping entry by entry would keep the positive noise alone and invent cases.
        This is "Norm-Sub" (Wang et al., "Locally Differentially Private Frequency Estimation with
        Consistency", NDSS 2020). Counts made by ``of`` and their sums are returned as they are.
        """
        totals = np.maximum(self.confusion.sum(axis=1), 0.0)
        rest = totals.sum() - totals
        sums = self.scores.sum(axis=2)
        # Rounding of weights such as 1/3 must not count as noise.
        if min(self.confusion.min(), self.scores.min()) >= 0 and np.allclose(
            sums, np.stack([rest, totals], axis=1), rtol=1e-9, atol=1e-9
        ):
            return self
        confusion = np.stack([_project(row, total) for row, total in zip(self.confusion, totals, strict=True)])
        scores = np.stack(
            [
                np.stack([_project(pair[0], negatives), _project(pair[1], positives)])
                for pair, negatives, positives in zip(self.scores, rest, totals, strict=True)
            ]
        )
        return Counts(confusion, scores)


def vector_length(classes: int, bins: int) -> int:
    """Length of ``Counts.to_vector``."""
    return classes * classes + 2 * classes * bins


def l2_sensitivity(classes: int) -> float:
    """Largest L2 change of ``Counts.to_vector`` when one patient of total weight 1 comes or goes.

    The patient adds a total of 1 to the confusion matrix and a total of 1 to each class's pair of
    histograms; spreading it over entries only shortens the vector. Hence sqrt(1 + C).
    """
    return math.sqrt(1 + classes)


def cases(counts: Counts) -> Floats:
    """Cases by true class, float64 [C]."""
    return np.asarray(counts.clamped().confusion.sum(axis=1), dtype=np.float64)


def accuracy(counts: Counts) -> float:
    """Share of cases predicted correctly, in [0, 1]; NaN without cases."""
    confusion = counts.clamped().confusion
    return float(_ratio(np.trace(confusion), confusion.sum()))


def sensitivity(counts: Counts) -> Floats:
    """Recall by class, [C]: TP / (TP + FN); NaN for a class without cases."""
    confusion = counts.clamped().confusion
    return _ratio(np.diag(confusion), confusion.sum(axis=1))


def specificity(counts: Counts) -> Floats:
    """By class, [C]: TN / (TN + FP); NaN where every case is of the class."""
    _, false_positives, _, true_negatives = one_vs_rest(counts)
    return _ratio(true_negatives, true_negatives + false_positives)


def positive_predictive_value(counts: Counts) -> Floats:
    """Precision by class, [C]: TP / (TP + FP); NaN for a class never predicted. Depends on the case mix."""
    true_positives, false_positives, _, _ = one_vs_rest(counts)
    return _ratio(true_positives, true_positives + false_positives)


def negative_predictive_value(counts: Counts) -> Floats:
    """By class, [C]: TN / (TN + FN); NaN for a class always predicted. Depends on the case mix."""
    _, _, false_negatives, true_negatives = one_vs_rest(counts)
    return _ratio(true_negatives, true_negatives + false_negatives)


def f1(counts: Counts) -> Floats:
    """By class, [C]: 2 TP / (2 TP + FP + FN); NaN for a class neither present nor predicted."""
    true_positives, false_positives, false_negatives, _ = one_vs_rest(counts)
    return _ratio(2 * true_positives, 2 * true_positives + false_positives + false_negatives)


def balanced_accuracy(counts: Counts) -> float:
    """Mean sensitivity over all classes; NaN if a class has no cases."""
    return float(sensitivity(counts).mean())


def one_vs_rest(counts: Counts) -> tuple[Floats, Floats, Floats, Floats]:
    """TP, FP, FN and TN of each class against the rest, float64 [C] each."""
    confusion = counts.clamped().confusion
    true_positives = np.diag(confusion)
    false_positives = confusion.sum(axis=0) - true_positives
    false_negatives = confusion.sum(axis=1) - true_positives
    # Summed without the class's row and column: subtracting totals would leave rounding below 0.
    others = ~np.eye(len(confusion), dtype=bool)
    true_negatives = np.array([confusion[np.ix_(keep, keep)].sum() for keep in others])
    return true_positives, false_positives, false_negatives, true_negatives


def auroc(counts: Counts) -> Floats:
    """Area under the ROC curve by class against the rest, [C]; NaN without positives or negatives.

    Taken from the histograms, a pair in the same bin counting one half: off from the area over the
    unbinned probabilities by at most ``auroc_binning_error``.
    """
    scores = counts.clamped().scores
    negatives, positives = scores[:, 0], scores[:, 1]
    wins = (positives * (negatives.cumsum(axis=1) - negatives / 2)).sum(axis=1)
    return _ratio(wins, positives.sum(axis=1) * negatives.sum(axis=1))


def auroc_binning_error(counts: Counts) -> Floats:
    """Largest possible error of ``auroc`` by binning, [C]: half the share of pairs that share a bin."""
    scores = counts.clamped().scores
    negatives, positives = scores[:, 0], scores[:, 1]
    return _ratio((positives * negatives).sum(axis=1) / 2, positives.sum(axis=1) * negatives.sum(axis=1))


def macro_auroc(counts: Counts) -> float:
    """Mean one-vs-rest AUROC over all classes; NaN if one is undefined."""
    return float(auroc(counts).mean())


def roc_points(counts: Counts, index: int) -> tuple[Floats, Floats]:
    """ROC curve of class ``index``: false and true positive rate, [B + 1] each, from (0, 0) to (1, 1).

    Point i calls positive what lies in the i highest bins. NaN without positives or negatives.
    """
    negatives, positives = counts.clamped().scores[index, :, ::-1]
    start = np.zeros(1)
    rates = (_ratio(np.append(start, side.cumsum()), side.sum()) for side in (negatives, positives))
    false_positive_rate, true_positive_rate = rates
    return false_positive_rate, true_positive_rate


def kappa(counts: Counts) -> float:
    """Cohen's kappa (1960), -1 to 1: agreement beyond that of chance; NaN where chance alone is perfect."""
    return _agreement(counts.clamped().confusion)[0]


def kappa_gradient(counts: Counts) -> Floats:
    """Derivative of ``kappa`` by each entry of the confusion matrix, [C, C]."""
    confusion = counts.clamped().confusion
    value, chance, total = _agreement(confusion)
    if math.isnan(value):
        return np.full_like(confusion, np.nan)
    by_observed = (np.eye(len(confusion)) - np.trace(confusion) / total) / total
    by_chance = (confusion.sum(axis=0)[:, None] + confusion.sum(axis=1)[None, :]) / total**2 - 2 * chance / total
    return np.asarray((by_observed - by_chance * (1 - value)) / (1 - chance))


def _agreement(confusion: Floats) -> tuple[float, float, float]:
    """Kappa, agreement by chance, and the number of cases."""
    total = float(confusion.sum())
    if total <= 0:
        return math.nan, math.nan, total
    chance = float(confusion.sum(axis=1) @ confusion.sum(axis=0)) / total**2
    beyond = float(np.trace(confusion)) / total - chance
    return (beyond / (1 - chance) if chance < 1 else math.nan), chance, total


def average_precision(counts: Counts) -> Floats:
    """Area under the precision-recall curve by class against the rest, [C], as scikit-learn defines it.

    NaN without positives or negatives. A bin is one threshold; ``average_precision_bounds`` says what that can hide.
    """
    return np.array([_precision_area(one)[0] for one in counts.clamped().scores])


def average_precision_bounds(counts: Counts) -> tuple[Floats, Floats]:
    """Lowest and highest value that the unbinned probabilities can have, [C] each: the order within bins is unknown."""
    areas = [_precision_area(one) for one in counts.clamped().scores]
    return np.array([area[1] for area in areas]), np.array([area[2] for area in areas])


def _precision_area(scores: Floats) -> tuple[float, float, float]:
    """Average precision of histograms [2, B] with each bin tied, and the least and most that its order can make of it.

    Least: the negatives of a bin come first, and the precision then grows with every positive; the sum over
    positives, whatever their weights, is at least the integral. Most: all positives have the bin's best precision.
    """
    negatives, positives = scores[:, ::-1]
    total = positives.sum()
    if total <= 0 or negatives.sum() <= 0:
        return math.nan, math.nan, math.nan
    true, false = positives.cumsum(), negatives.cumsum()
    before = true - positives
    growth = np.log1p(np.divide(positives, before + false, out=np.zeros_like(true), where=before + false > 0))
    least = positives - false * growth
    tied, most = (np.nan_to_num(positives * _ratio(true, true + wrong)) for wrong in (false, false - negatives))
    return float(tied.sum() / total), float(least.sum() / total), float(most.sum() / total)


def bin_losses(bins: int) -> Floats:
    """-ln p, in nats, averaged over each of B equal bins of [0, 1]; float64 [B]."""
    edges = np.arange(bins + 1) / bins
    with np.errstate(divide="ignore", invalid="ignore"):
        primitive = np.where(edges > 0, edges - edges * np.log(edges), 0.0)
    return np.diff(primitive) * bins


def log_loss(counts: Counts) -> float:
    """Mean of -ln(probability of the true class), in nats; NaN without cases.

    ``scores[c, 1]`` is the histogram of that probability over the cases of class c; each bin counts
    with ``bin_losses``. A case is off by less than ln 2 in any bin but the first, where the
    probability is below 1/B and the loss is taken as 1 + ln B, however small the probability.
    """
    histogram = counts.clamped().scores[:, 1].sum(axis=0)
    return float(_ratio((histogram * bin_losses(counts.bins)).sum(), histogram.sum()))


def calibration_error(counts: Counts) -> Floats:
    """Expected calibration error by class, [C], in [0, 1]: mean over cases of |share of positives in
    the bin - middle of the bin| (Naeini et al., AAAI 2015), within half a bin; NaN without cases.
    """
    scores = counts.clamped().scores
    in_bin = scores.sum(axis=1)
    middle = (np.arange(counts.bins) + 0.5) / counts.bins
    return _ratio(np.abs(scores[:, 1] - middle * in_bin).sum(axis=1), in_bin.sum(axis=1))


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """The quotient above / below, NaN where there is nothing below."""
    top, bottom = np.broadcast_arrays(np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64))
    quotient = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=quotient, where=bottom > 0)
    return quotient


def _project(values: Floats, total: float) -> Floats:
    """The point nearest to ``values`` among non-negative vectors that sum to ``total`` >= 0."""
    if total <= 0:
        return np.zeros_like(values)
    descending = np.sort(values)[::-1]
    shifts = (descending.cumsum() - total) / np.arange(1, len(values) + 1)
    last = np.flatnonzero(descending > shifts)
    return np.maximum(values - shifts[last[-1]], 0.0) if len(last) else np.zeros_like(values)


def _checked(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """The arguments of ``Counts.of`` as arrays, or ValueError."""
    truth = np.asarray(labels)
    proba = np.asarray(probabilities, dtype=np.float64)
    if proba.ndim != 2 or proba.shape[1] < 2:
        raise ValueError(f"probabilities has shape {proba.shape}; expected (n, C) with C >= 2")
    count, classes = proba.shape
    weight = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    for name, array in (("labels", truth), ("weights", weight)):
        if array.shape != (count,):
            raise ValueError(f"{name} has shape {array.shape}; expected ({count},), one an example")
    if count and truth.dtype.kind not in "iu":
        raise ValueError(f"labels has type {truth.dtype}; expected integers")
    if ((truth < 0) | (truth >= classes)).any():
        raise ValueError(f"labels holds {truth[(truth < 0) | (truth >= classes)][0]}; expected 0..{classes - 1}")
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(f"weights holds {weight[~(np.isfinite(weight) & (weight >= 0))][0]}; expected numbers >= 0")
    if not ((proba >= 0) & (proba <= 1 + _ROW_TOLERANCE)).all():
        raise ValueError(
            f"probabilities holds {proba[~((proba >= 0) & (proba <= 1 + _ROW_TOLERANCE))][0]}; expected [0, 1]"
        )
    off = np.abs(proba.sum(axis=1) - 1) > _ROW_TOLERANCE
    if off.any():
        raise ValueError(f"a row of probabilities sums to {proba.sum(axis=1)[off][0]}; expected 1")
    return truth.astype(np.int64), proba, weight
