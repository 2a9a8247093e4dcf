"""The tests against scipy's, scikit-learn's and formulas written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from simulations.compare.significance import corrected_t, delong, holm, mcnemar, paired_interval, wilcoxon


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 4)), min_size=2, max_size=10, unique=True))
def test_the_corrected_t_is_scipys_paired_t_with_a_wider_error(differences):
    plain = stats.ttest_rel(differences, np.zeros(len(differences)))
    count = len(differences)
    shrunk = plain.statistic / math.sqrt(1 + count / (count - 1))
    found = corrected_t(differences)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(shrunk), count - 1), rel=1e-6)
    assert found.p >= plain.pvalue
    assert found.difference == pytest.approx(np.mean(differences))
    assert (found.low <= 0 <= found.high) == (found.p >= 0.05)


def test_the_uncorrected_t_would_claim_too_much_and_the_corrected_one_does_not():
    """Five folds of 24 patients each, the models equally good, correlated by shared training sets."""
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 0.5, (4000, 1))  # what overlapping training sets have in common: correlation 1/5
    differences = 0.1 * (shared + rng.normal(0, 1, (4000, 5)))
    plain = stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert (plain < 0.05).mean() > 0.09
    assert abs(np.mean([corrected_t(row).p < 0.05 for row in differences]) - 0.05) < 0.02


def test_folds_that_all_differ_alike_say_nothing():
    assert corrected_t([0.0, 0.0, 0.0]).p == 1.0
    assert corrected_t([0.1, 0.1, 0.1]).p is None
    with pytest.raises(ValueError, match="1 differences; expected at least two"):
        corrected_t([0.1])


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_wilcoxon_counts_all_signs_also_with_ties(differences):
    kept = np.array([d for d in differences if d])
    if not len(kept):
        assert wilcoxon(differences).p == 1.0
        return
    ranks = stats.rankdata(np.abs(kept))
    sums = np.array([ranks @ signs for signs in itertools.product([-1, 1], repeat=len(kept))])
    expected = np.mean(np.abs(sums) >= abs(ranks @ np.sign(kept)) - 1e-9)
    assert wilcoxon(differences).p == pytest.approx(expected)


def test_wilcoxon_of_five_folds_says_that_it_can_not_be_significant():
    found = wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5])
    assert found.p == 0.0625
    assert found.note == "with 5 differing folds it can't be below 0.0625"
    assert wilcoxon([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).note == ""


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_tail_on_both_sides(better, worse):
    total, extreme = better + worse, max(better, worse)
    tail = sum(math.comb(total, k) for k in range(extreme, total + 1)) / 2**total
    expected = 1.0 if better == worse else min(1.0, 2 * tail)
    assert mcnemar(better, worse).p == pytest.approx(expected)


def test_the_paired_interval_covers_the_true_difference_95_times_in_100():
    rng = np.random.default_rng(2)
    for gain, loss in ((0.12, 0.04), (0.05, 0.05), (0.02, 0.0)):
        draws = rng.multinomial(60, [gain, loss, 1 - gain - loss], 3000)
        limits = [paired_interval(int(b), int(c), 60) for b, c, _ in draws]
        covered = np.mean([low <= gain - loss <= high for low, high in limits])
        assert covered > 0.93, (gain, loss)


def naive(labels, scores):
    """DeLong's covariance of one class against the rest, pair by pair, for scores [models, n]."""
    own = labels == 1
    wins = [(x[own][:, None] > x[~own]) + 0.5 * (x[own][:, None] == x[~own]) for x in scores]
    areas = [w.mean() for w in wins]
    positives, negatives = ([w.mean(axis=axis) for w in wins] for axis in (1, 0))
    return areas, np.cov(positives) / own.sum() + np.cov(negatives) / (~own).sum()


@pytest.mark.parametrize("seed", range(4))
def test_delong_of_two_classes_is_the_published_formula(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 40)
    scores = [np.round(np.clip(labels * 0.2 + rng.random(40), 0, 1.2) / 1.2, 1 + seed % 2) for _ in range(2)]
    areas, covariance = naive(labels, scores)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = delong(labels, *(np.stack([1 - s, s], axis=1) for s in scores))
    assert found.difference == pytest.approx(areas[0] - areas[1])
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(areas[0] - areas[1]) / error))
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * error, rel=1e-5)


def test_delong_of_three_classes_has_scikit_learns_areas_and_the_spread_of_new_patients():
    rng = np.random.default_rng(3)

    def draw():
        labels = np.repeat([0, 1, 2], [20, 30, 25])
        shared = rng.normal(0, 1, (75, 3))
        made = [np.eye(3)[labels] * 1.0 + shared + rng.normal(0, 0.7, (75, 3)) for _ in range(2)]
        return labels, *(np.exp(m) / np.exp(m).sum(axis=1, keepdims=True) for m in made)

    labels, first, second = draw()
    areas = [roc_auc_score(labels, s, multi_class="ovr", average="macro") for s in (first, second)]
    assert delong(labels, first, second).difference == pytest.approx(areas[0] - areas[1])
    found = [delong(*draw()) for _ in range(400)]
    errors = [(f.high - f.low) / 3.92 for f in found]
    assert np.mean(errors) == pytest.approx(np.std([f.difference for f in found]), rel=0.12)
    assert abs(np.mean([f.p < 0.05 for f in found]) - 0.05) < 0.035


def test_delong_says_nothing_where_a_class_has_too_few_patients_for_an_auroc():
    labels = np.repeat([0, 1], [9, 4])
    scores = np.stack([1 - labels, labels], axis=1).astype(float)
    found = delong(labels, scores, scores)
    assert (found.p, found.note) == (None, "a class has fewer than 5 patients")
    both = np.repeat([0, 1], [5, 5])
    scores = np.stack([1 - both, both], axis=1).astype(float)
    assert delong(both, scores, scores).p == 1.0


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.04, None, 0.03]) == [pytest.approx(0.06), None, pytest.approx(0.06)]
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_the_chance_of_any_false_claim_where_plain_tests_do_not():
    rng = np.random.default_rng(4)
    drawn = rng.random((4000, 10))
    assert (drawn.min(axis=1) < 0.05).mean() > 0.35
    assert np.mean([min(holm(row.tolist())) < 0.05 for row in drawn]) == pytest.approx(0.05, abs=0.012)
