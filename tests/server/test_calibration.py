"""Kappa, AUPRC, calibration and operating points with their intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from common.metrics import Counts
from server import calibration
from server.evaluation import evaluate, final_metrics

CLASSES = ("compression", "burst", "normal")


def predictions(seed, size, skill=1.2):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=size)
    logits = rng.normal(size=(size, 3))
    logits[np.arange(size), labels] += skill
    return labels, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def counts_of(seed, size, skill=1.2):
    return Counts.of(*predictions(seed, size, skill), 64)


def test_kappa_has_the_variance_of_fleiss_cohen_and_everitt():
    """Their own example (Psychological Bulletin 72, 1969, table 1): kappa 0.429, standard error 0.05 for 200 cases."""
    confusion = np.array([[53.0, 5, 2], [11, 14, 5], [1, 6, 3]])
    scores = np.zeros((3, 2, 8))
    scores[:, 1, 7] = confusion.sum(axis=1)
    scores[:, 0, 0] = confusion.sum() - confusion.sum(axis=1)
    found = calibration.kappa(Counts(confusion, scores), 0.0)
    assert found.value == pytest.approx(0.429, abs=5e-4)
    assert found.low < found.value < found.high


def test_perfect_agreement_still_has_an_interval():
    labels = np.arange(30) % 3
    found = evaluate(Counts.of(labels, np.eye(3)[labels], 64), CLASSES)
    assert found.kappa.value == found.macro_auprc.value == 1
    assert found.kappa.low < 0.9
    assert found.macro_auprc.low < 0.9
    assert found.kappa.high == found.macro_auprc.high == 1


def test_figures_are_those_of_scikit_learn():
    labels, scores = predictions(0, 400)
    found = evaluate(Counts.of(labels, scores, 1024), CLASSES)
    for index, item in enumerate(found.classes):
        exact = reference.average_precision_score(labels == index, scores[:, index])
        assert item.auprc.value == pytest.approx(exact, abs=0.01)
        assert item.auprc.low < exact < item.auprc.high
    assert found.kappa.value == pytest.approx(reference.cohen_kappa_score(labels, scores.argmax(axis=1)))


def test_what_rests_on_too_few_cases_or_on_noise_is_not_given():
    few = evaluate(counts_of(1, 4), CLASSES)
    drowned = evaluate(counts_of(1, 60), CLASSES, noise_std=20.0)
    for name in ("kappa", "brier", "calibration_error", "macro_auprc"):
        assert getattr(few, name).value is None
        assert (getattr(drowned, name).value, getattr(drowned, name).note) == (None, "noise")
    assert {few.kappa.note, few.brier.note, few.calibration_error.note} == {"few-cases"}


def test_a_curve_has_a_point_only_where_there_are_cases_for_it():
    (curve, *_) = calibration.reliability_curves(counts_of(2, 60), CLASSES, 0.0)
    assert 0 < len(curve.points) < 8
    assert all(point.observed.cases >= 5 for point in curve.points)
    assert [point.predicted for point in curve.points] == sorted(point.predicted for point in curve.points)
    assert all(not one.points for one in calibration.reliability_curves(counts_of(2, 60), CLASSES, 30.0))


def test_operating_points_reach_the_sensitivity_on_cases_that_did_not_choose_them():
    released = {f"site-{n}": (counts_of(n, 2000), 0.0) for n in range(5)}
    for point in calibration.operating_points(released, CLASSES):
        assert point.wanted == 0.95
        assert point.sensitivity.low <= 0.96
        assert point.sensitivity.value == pytest.approx(0.95, abs=0.02)
        assert 0.1 < point.specificity.value < 0.95


def test_a_hospitals_own_cases_do_not_choose_its_threshold():
    """Two hospitals whose scores differ: chosen on itself each would reach 95 %, chosen on the other one does not."""
    labels, scores = predictions(3, 1000)
    shifted = np.clip(scores * np.array([0.5, 1, 1]), 1e-6, 1)
    shifted /= shifted.sum(axis=1, keepdims=True)
    released = {"a": (Counts.of(labels, scores, 64), 0.0), "b": (Counts.of(labels, shifted, 64), 0.0)}
    first = calibration.operating_points(released, CLASSES)[0]
    assert first.sensitivity.value < 0.94


def test_one_hospital_has_no_operating_point():
    assert final_metrics({"a": (counts_of(4, 100), 0.0)}, CLASSES).operating == ()


def test_the_slopes_of_the_average_precision_are_those_of_small_changes():
    counts = counts_of(5, 80)
    scores = counts.scores[0] + 0.25  # no bin is empty, so each has a slope of its own

    def area(table):
        return calibration.metrics._precision_area(table)[0]

    found = calibration._slopes(scores, area(scores))
    for place in ((0, 3), (1, 3), (0, 60), (1, 60), (1, 20)):
        moved = scores.copy()
        moved[place] += 1e-6
        row, column = place
        assert found[row, 63 - column] == pytest.approx((area(moved) - area(scores)) / 1e-6, rel=1e-3, abs=1e-7)
