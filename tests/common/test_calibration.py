"""Calibration and operating points, against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from common import calibration
from common.calibration import GROUPS
from common.metrics import Counts

BINS = 64


def predictions(seed, size=400, classes=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=size)
    logits = rng.normal(size=(size, classes))
    logits[np.arange(size), labels] += 1.2
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, scores


@pytest.mark.parametrize("seed", range(3))
def test_brier_agrees_with_scikit_learn_within_its_binning(seed):
    labels, scores = predictions(seed)
    expected = sum(reference.brier_score_loss(labels == c, scores[:, c]) for c in range(3))
    assert calibration.brier(Counts.of(labels, scores, BINS)) == pytest.approx(expected, abs=2 * 3 / BINS)
    assert calibration.brier(Counts.of(labels, scores, 4096)) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("seed", range(3))
def test_the_reliability_curve_agrees_with_scikit_learn(seed):
    labels, scores = predictions(seed)
    cases, hits, predicted = calibration.reliability(Counts.of(labels, scores, BINS))
    for index in range(3):
        observed, mean = calibration_curve(labels == index, scores[:, index], n_bins=GROUPS)
        full = cases[index] > 0
        assert hits[index][full] / cases[index][full] == pytest.approx(observed)
        assert predicted[index][full] / cases[index][full] == pytest.approx(mean, abs=0.5 / BINS)


def test_the_calibration_error_is_the_weighted_gap_of_its_definition():
    labels, scores = predictions(3)
    found = calibration.calibration_error(Counts.of(labels, scores, BINS))
    for index in range(3):
        group = np.minimum((scores[:, index] * GROUPS).astype(int), GROUPS - 1)
        gaps = [abs((labels[group == g] == index).sum() - scores[group == g, index].sum()) for g in range(GROUPS)]
        assert found[index] == pytest.approx(sum(gaps) / len(labels), abs=0.5 / BINS)


def test_a_calibrated_model_has_a_small_error_and_one_too_sure_of_itself_a_large_one():
    rng = np.random.default_rng(4)
    honest = rng.random(20_000)
    labels = (rng.random(20_000) < honest).astype(int)
    sure = np.where(honest > 0.5, 0.99, 0.01)
    calm, bold = (Counts.of(labels, np.stack([1 - p, p], axis=1), BINS) for p in (honest, sure))
    assert calibration.calibration_error(calm).max() < 0.02
    assert calibration.calibration_error(bold).min() > 0.2


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95, 1.0])
def test_the_threshold_is_the_highest_that_calls_enough(wanted):
    labels, scores = predictions(5)
    counts = Counts.of(labels, scores, BINS)
    threshold = calibration.threshold_for(counts, 1, wanted)
    mine = scores[labels == 1, 1]
    assert (mine >= threshold).mean() >= wanted
    assert (mine >= threshold + 1 / BINS).mean() < wanted
    tp, fp, fn, tn = calibration.called(counts, 1, threshold)
    assert tp == (mine >= threshold).sum()
    assert fp == (scores[labels != 1, 1] >= threshold).sum()
    assert (fn, tn) == (len(mine) - tp, (labels != 1).sum() - fp)


def test_without_cases_there_is_nothing():
    nobody = Counts.zero(3, BINS)
    assert math.isnan(calibration.brier(nobody))
    assert np.isnan(calibration.calibration_error(nobody)).all()
    assert calibration.threshold_for(nobody, 0, 0.9) is None


@pytest.mark.parametrize("bins", [8, 10, 64, 1000])
def test_every_case_is_in_one_group_whatever_the_number_of_bins(bins):
    labels, scores = predictions(6)
    cases, hits, _ = calibration.reliability(Counts.of(labels, scores, bins))
    assert cases.sum(axis=1) == pytest.approx(np.full(3, len(labels)))
    assert hits.sum(axis=1) == pytest.approx(np.bincount(labels))
