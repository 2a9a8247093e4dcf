"""Counts and metrics, against scikit-learn and against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from common import metrics
from common.metrics import Counts, l2_sensitivity, vector_length

BINS = 64


def predictions(seed, size=300, classes=3, skill=1.0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    logits = rng.normal(size=(size, classes))
    logits[np.arange(size), labels] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, scores


@st.composite
def cases(draw, classes=3):
    """Labels, probabilities and weights of a few examples; ties and extremes included."""
    size = draw(st.integers(0, 25))
    labels = draw(hnp.arrays(np.int64, size, elements=st.integers(0, classes - 1)))
    raw = draw(hnp.arrays(np.float64, (size, classes), elements=st.integers(0, 6).map(float))) + 1e-9
    weights = draw(hnp.arrays(np.float64, size, elements=st.sampled_from([0.0, 0.25, 1 / 3, 1.0])))
    return labels, raw / raw.sum(axis=1, keepdims=True), weights


def same(one, other):
    np.testing.assert_allclose(one.to_vector(), other.to_vector(), atol=1e-12)


def test_the_confusion_matrix_is_that_of_scikit_learn():
    labels, scores = predictions(1)
    expected = reference.confusion_matrix(labels, scores.argmax(axis=1), labels=range(3))
    np.testing.assert_array_equal(Counts.of(labels, scores, BINS).confusion, expected)


@pytest.mark.parametrize("seed", range(4))
def test_proportions_agree_with_scikit_learn(seed):
    labels, scores = predictions(seed, size=157)
    predicted = scores.argmax(axis=1)
    counts = Counts.of(labels, scores, BINS)
    assert metrics.accuracy(counts) == pytest.approx(reference.accuracy_score(labels, predicted))
    assert metrics.balanced_accuracy(counts) == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    assert metrics.sensitivity(counts) == pytest.approx(reference.recall_score(labels, predicted, average=None))
    assert metrics.positive_predictive_value(counts) == pytest.approx(
        reference.precision_score(labels, predicted, average=None)
    )
    assert metrics.f1(counts) == pytest.approx(reference.f1_score(labels, predicted, average=None))
    for index in range(3):
        truth, said = labels != index, predicted != index
        assert metrics.specificity(counts)[index] == pytest.approx(reference.recall_score(truth, said))
        assert metrics.negative_predictive_value(counts)[index] == pytest.approx(reference.precision_score(truth, said))


@given(cases())
def test_the_binned_auroc_is_within_its_stated_error_of_the_exact_one(drawn):
    labels, scores, _ = drawn
    counts = Counts.of(labels, scores, 8)
    for index in range(3):
        truth = labels == index
        binned, error = metrics.auroc(counts)[index], metrics.auroc_binning_error(counts)[index]
        if truth.all() or not truth.any():
            assert math.isnan(binned)
        else:
            assert abs(binned - reference.roc_auc_score(truth, scores[:, index])) <= error + 1e-9


def test_the_auroc_of_binned_scores_is_exact():
    labels, scores = predictions(5, classes=2)
    middle = (np.floor(scores[:, 1] * BINS) + 0.5) / BINS
    binned = np.stack([1 - middle, middle], axis=1)
    assert metrics.auroc(Counts.of(labels, binned, BINS))[1] == pytest.approx(reference.roc_auc_score(labels, middle))


def test_fine_bins_bring_auroc_and_log_loss_to_those_of_scikit_learn():
    labels, scores = predictions(6, size=800)
    counts = Counts.of(labels, scores, 1024)
    expected = reference.roc_auc_score(labels, scores, multi_class="ovr")
    assert metrics.macro_auroc(counts) == pytest.approx(expected, abs=2e-4)
    assert metrics.log_loss(counts) == pytest.approx(reference.log_loss(labels, scores), abs=2e-3)


def test_the_log_loss_of_coarse_bins_is_off_by_less_than_ln_2():
    labels, scores = predictions(7, size=500)
    assert abs(metrics.log_loss(Counts.of(labels, scores, 16)) - reference.log_loss(labels, scores)) < math.log(2)


def test_bin_losses_average_the_loss_over_each_bin():
    fine = -np.log((np.arange(8 * 10_000) + 0.5) / 80_000).reshape(8, 10_000).mean(axis=1)
    np.testing.assert_allclose(metrics.bin_losses(8), fine, atol=1e-4)


def test_the_roc_curve_has_the_area_of_the_auroc():
    labels, scores = predictions(8)
    counts = Counts.of(labels, scores, BINS)
    for index in range(3):
        false_rate, true_rate = metrics.roc_points(counts, index)
        assert (false_rate[0], true_rate[0]) == (0.0, 0.0)
        assert (false_rate[-1], true_rate[-1]) == pytest.approx((1.0, 1.0))
        assert np.trapezoid(true_rate, false_rate) == pytest.approx(metrics.auroc(counts)[index])


def test_a_calibrated_model_has_a_small_calibration_error_and_a_boastful_one_a_large_one():
    rng = np.random.default_rng(9)
    chance = rng.uniform(size=20_000)
    labels = (rng.uniform(size=20_000) < chance).astype(int)
    calibrated = np.stack([1 - chance, chance], axis=1)
    boastful = np.stack([chance < 0.5, chance >= 0.5], axis=1).astype(float)
    assert metrics.calibration_error(Counts.of(labels, calibrated, 16)).max() < 0.03
    assert metrics.calibration_error(Counts.of(labels, boastful, 16)).min() > 0.2


@given(cases(), cases(), cases())
def test_merging_is_associative_commutative_and_has_a_neutral_element(one, two, three):
    a, b, c = (Counts.of(labels, scores, 8, weights) for labels, scores, weights in (one, two, three))
    same((a + b) + c, a + (b + c))
    same(a + b, b + a)
    same(a + Counts.zero(3, 8), a)


@given(cases(), cases())
def test_counting_two_groups_together_is_merging_their_counts(one, two):
    together = Counts.of(*(np.concatenate(pair) for pair in zip(one[:2], two[:2], strict=True)), 8)
    same(Counts.of(*one[:2], 8) + Counts.of(*two[:2], 8), together)


@given(cases())
def test_a_vector_goes_there_and_back(drawn):
    labels, scores, weights = drawn
    counts = Counts.of(labels, scores, 8, weights)
    vector = counts.to_vector()
    assert vector.shape == (vector_length(3, 8),)
    np.testing.assert_array_equal(Counts.from_vector(vector, 3, 8).to_vector(), vector)


def test_the_vector_has_the_documented_order():
    counts = Counts.of([2], [[0.1, 0.3, 0.6]], 4)
    vector = counts.to_vector()
    assert vector[2 * 3 + 2] == 1  # confusion[2, 2]
    assert vector[9 + (2 * 2 + 1) * 4 + 2] == 1  # scores[2, 1, 2]: 0.6 is in [0.5, 0.75)
    assert vector.sum() == 1 + 3


@given(cases(), st.integers(0, 24))
def test_one_patient_moves_the_vector_by_no_more_than_the_sensitivity(drawn, seed):
    labels, scores, _ = drawn
    rest = Counts.of(*predictions(seed, size=9), 8)
    weights = np.full(len(labels), 1 / max(1, len(labels)))
    patient = Counts.of(labels, scores, 8, weights)
    moved = np.linalg.norm((rest + patient).to_vector() - rest.to_vector())
    assert moved <= l2_sensitivity(3) + 1e-9


def test_a_patient_with_one_example_reaches_the_sensitivity():
    assert np.linalg.norm(Counts.of([0], [[0.2, 0.5, 0.3]], 8).to_vector()) == pytest.approx(l2_sensitivity(3))


def test_what_has_no_cases_is_undefined_and_not_zero():
    empty = Counts.zero(3, 8)
    assert math.isnan(metrics.accuracy(empty))
    assert math.isnan(metrics.log_loss(empty))
    for of_class in (metrics.sensitivity, metrics.specificity, metrics.f1, metrics.auroc, metrics.calibration_error):
        assert np.isnan(of_class(empty)).all()
    one_class = Counts.of([0, 0], [[0.9, 0.1], [0.2, 0.8]], 8)
    assert metrics.sensitivity(one_class)[0] == 0.5
    assert math.isnan(metrics.sensitivity(one_class)[1])
    assert math.isnan(metrics.balanced_accuracy(one_class))
    assert np.isnan(metrics.auroc(one_class)).all()


@given(cases())
def test_exact_counts_are_not_changed_by_clamping(drawn):
    labels, scores, weights = drawn
    counts = Counts.of(labels, scores, 8, weights)
    assert counts.clamped() is counts


@settings(deadline=None)
@given(hnp.arrays(np.float64, vector_length(3, 8), elements=st.floats(-1e6, 1e6)))
def test_no_noise_makes_a_metric_crash_or_leave_its_range(vector):
    counts = Counts.from_vector(vector, 3, 8)
    clamped = counts.clamped()
    assert clamped.to_vector().min() >= 0
    np.testing.assert_allclose(
        clamped.confusion.sum(axis=1), np.maximum(counts.confusion.sum(axis=1), 0), rtol=1e-6, atol=1e-6
    )
    shares = [metrics.accuracy(counts), metrics.balanced_accuracy(counts), metrics.macro_auroc(counts)]
    for name in ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value", "f1", "auroc"):
        shares += list(getattr(metrics, name)(counts))
    for share in shares:
        assert math.isnan(share) or -1e-9 <= share <= 1 + 1e-9


def test_clamping_is_the_nearest_point_and_keeps_the_total():
    rng = np.random.default_rng(3)
    noised = np.array([[5.0, -3.0, 2.0], [0.5, -0.1, 9.0], [-4.0, 1.0, 1.0]])
    clamped = Counts(noised, np.zeros((3, 2, 4))).clamped().confusion
    np.testing.assert_allclose(clamped[0], [3.5, 0.0, 0.5])
    np.testing.assert_allclose(clamped.sum(axis=1), [4.0, 9.4, 0.0], atol=1e-12)
    for _ in range(200):
        other = rng.dirichlet([1, 1, 1]) * 4.0
        assert np.linalg.norm(noised[0] - clamped[0]) <= np.linalg.norm(noised[0] - other) + 1e-9


def test_noised_counts_keep_their_total_where_clamping_each_entry_would_invent_cases():
    labels, scores = predictions(4, size=200)
    exact = Counts.of(labels, scores, BINS)
    rng = np.random.default_rng(0)
    totals, naive = [], []
    for _ in range(200):
        vector = exact.to_vector() + rng.normal(0, 20, vector_length(3, BINS))
        noised = Counts.from_vector(vector, 3, BINS)
        totals.append(metrics.cases(noised).sum())
        naive.append(np.maximum(noised.scores[0], 0).sum())
    assert np.mean(totals) == pytest.approx(200, abs=20)
    assert np.mean(naive) > 800


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "named"),
    [
        ([3], [[0.2, 0.3, 0.5]], None, "labels holds 3"),
        ([-1], [[0.2, 0.3, 0.5]], None, "labels holds -1"),
        ([0.5], [[0.2, 0.3, 0.5]], None, "labels has type float64"),
        ([0, 1], [[0.2, 0.3, 0.5]], None, "labels has shape"),
        ([0], [[0.2, 0.3, 0.9]], None, "sums to 1.4"),
        ([0], [[-0.2, 0.3, 0.9]], None, "holds -0.2"),
        ([0], [[float("nan"), 0.3, 0.7]], None, "holds nan"),
        ([0], [0.2, 0.8], None, "probabilities has shape"),
        ([0], [[0.2, 0.8]], [-1.0], "weights holds -1.0"),
        ([0], [[0.2, 0.8]], [1.0, 1.0], "weights has shape"),
    ],
)
def test_bad_predictions_are_refused_with_the_value(labels, scores, weights, named):
    with pytest.raises(ValueError, match=named):
        Counts.of(labels, scores, BINS, weights)


def test_counts_of_another_shape_can_not_be_added_or_read():
    with pytest.raises(ValueError, match="3 classes and 8 bins can't be added to counts of 3 classes and 9"):
        Counts.zero(3, 8) + Counts.zero(3, 9)
    with pytest.raises(ValueError, match=r"expected \(57,\)"):
        Counts.from_vector(np.zeros(56), 3, 8)
    with pytest.raises(ValueError, match="confusion holds nan"):
        Counts(np.full((2, 2), np.nan), np.zeros((2, 2, 4)))
    with pytest.raises(ValueError, match="scores has shape"):
        Counts(np.zeros((2, 2)), np.zeros((3, 2, 4)))
    with pytest.raises(ValueError, match="confusion has shape"):
        Counts(np.zeros((1, 1)), np.zeros((1, 2, 4)))


def test_counts_can_not_be_changed_from_outside():
    confusion = np.zeros((2, 2))
    counts = Counts(confusion, np.zeros((2, 2, 4)))
    confusion[0, 0] = 7
    assert counts.confusion[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        counts.confusion[0, 0] = 1


@pytest.mark.parametrize("seed", range(4))
def test_kappa_agrees_with_scikit_learn(seed):
    labels, scores = predictions(seed, size=157)
    found = metrics.kappa(Counts.of(labels, scores, BINS))
    assert found == pytest.approx(reference.cohen_kappa_score(labels, scores.argmax(axis=1)))


def test_kappa_is_undefined_where_chance_is_perfect_and_one_where_all_agree():
    only = Counts(np.array([[7.0, 0], [0, 0]]), np.zeros((2, 2, 8)))
    assert math.isnan(metrics._agreement(only.confusion)[0])
    assert metrics._agreement(np.diag([3.0, 4]))[0] == pytest.approx(1)


def test_the_gradient_of_kappa_is_that_of_small_changes():
    confusion = np.array([[20.0, 3, 2], [4, 30, 1], [2, 5, 9]])
    small = 1e-5
    for place in np.ndindex(3, 3):
        moved = confusion.copy()
        moved[place] += small
        change = (metrics._agreement(moved)[0] - metrics._agreement(confusion)[0]) / small
        assert gradient(confusion)[place] == pytest.approx(change, abs=1e-6)


def gradient(confusion):
    """``kappa_gradient`` of counts with this confusion matrix, whose histograms agree with it."""
    scores = np.zeros((3, 2, 8))
    scores[:, 1, 7] = confusion.sum(axis=1)
    scores[:, 0, 0] = confusion.sum() - confusion.sum(axis=1)
    return metrics.kappa_gradient(Counts(confusion, scores))


@given(cases())
def test_the_binned_average_precision_is_that_of_scikit_learn_on_binned_scores(drawn):
    labels, scores, _ = drawn
    counts = Counts.of(labels, scores, 8)
    for index in range(3):
        truth = labels == index
        found = metrics.average_precision(counts)[index]
        if truth.all() or not truth.any():
            assert math.isnan(found)
        else:
            binned = np.minimum((scores[:, index] * 8).astype(int), 7)
            assert found == pytest.approx(reference.average_precision_score(truth, binned))


@given(cases())
def test_the_unbinned_average_precision_is_within_its_bounds(drawn):
    labels, scores, _ = drawn
    low, high = metrics.average_precision_bounds(Counts.of(labels, scores, 8))
    for index in range(3):
        truth = labels == index
        if truth.any() and not truth.all():
            exact = reference.average_precision_score(truth, scores[:, index])
            assert low[index] - 1e-9 <= exact <= high[index] + 1e-9
