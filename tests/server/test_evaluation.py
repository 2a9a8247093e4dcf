"""Metrics with intervals: against published values, and by how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from common import metrics
from common.metrics import Counts
from server.evaluation import evaluate, final_metrics, roc_curves
from server.intervals import auroc_interval, wilson

CLASSES = ("compression", "burst", "normal")


def counts_of(rng, size, classes=3, skill=1.2, bins=64):
    labels = rng.integers(classes, size=size)
    logits = rng.normal(size=(size, classes))
    logits[np.arange(size), labels] += skill
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Counts.of(labels, scores, bins)


def noised(rng, counts, std):
    vector = counts.to_vector()
    return Counts.from_vector(vector + rng.normal(0, std, vector.size), counts.classes, counts.bins)


def holds(estimate, truth):
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize(("hits", "cases"), [(0, 7), (5, 7), (7, 7), (81, 263), (15, 148), (1, 29)])
def test_wilson_is_that_of_scipy(hits, cases):
    expected = binomtest(hits, cases).proportion_ci(method="wilson")
    assert wilson(hits, cases) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("area", "m", "n"), [(0.5, 40, 60), (0.9, 30, 110), (0.99, 8, 9), (0.75, 5, 200)])
def test_the_limits_of_an_auroc_solve_their_equation(area, m, n):
    low, high = auroc_interval(area, m, n)
    mean = (m + n) / 2 - 1
    for limit in (low, high):
        variance = limit * (1 - limit) * (1 + mean * (1 - limit) / (2 - limit) + mean * limit / (1 + limit)) / (m * n)
        assert abs(limit - area) == pytest.approx(norm.ppf(0.975) * math.sqrt(variance))
    assert 0 < low < area < high < 1


def test_a_perfect_auroc_has_an_interval_that_narrows_with_cases():
    low_few, high_few = auroc_interval(1.0, 5, 5)
    low_many, high_many = auroc_interval(1.0, 200, 200)
    assert high_few == high_many == 1.0
    assert 0.3 < low_few < low_many < 1.0
    assert auroc_interval(0.0, 5, 5) == pytest.approx((0.0, 1 - low_few))


def test_figures_are_those_of_the_counts():
    counts = counts_of(np.random.default_rng(0), 200)
    found = evaluate(counts, CLASSES)
    assert found.accuracy.value == pytest.approx(metrics.accuracy(counts))
    assert found.accuracy.hits == np.trace(counts.confusion)
    assert found.accuracy.cases == found.cases == 200
    assert found.balanced_accuracy.value == pytest.approx(metrics.balanced_accuracy(counts))
    assert found.macro_auroc.value == pytest.approx(metrics.macro_auroc(counts))
    assert found.log_loss.value == pytest.approx(metrics.log_loss(counts))
    assert found.macro_f1.value == pytest.approx(metrics.f1(counts).mean())
    for index, item in enumerate(found.classes):
        assert item.name == CLASSES[index]
        assert item.cases == counts.confusion[index].sum()
        assert item.sensitivity.value == pytest.approx(metrics.sensitivity(counts)[index])
        assert item.specificity.value == pytest.approx(metrics.specificity(counts)[index])
        assert item.ppv.value == pytest.approx(metrics.positive_predictive_value(counts)[index])
        assert item.npv.value == pytest.approx(metrics.negative_predictive_value(counts)[index])
        assert item.f1.value == pytest.approx(metrics.f1(counts)[index])
        assert item.auroc.value == pytest.approx(metrics.auroc(counts)[index])
    np.testing.assert_allclose(found.confusion, counts.confusion)


def test_every_interval_holds_its_own_value():
    rng = np.random.default_rng(1)
    for size, noise in ((30, 0.0), (300, 0.0), (3000, 2.0)):
        counts = counts_of(rng, size)
        found = evaluate(noised(rng, counts, noise) if noise else counts, CLASSES, noise)
        parts = [
            getattr(c, name)
            for c in found.classes
            for name in ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")
        ]
        parts += [found.accuracy, found.balanced_accuracy, found.macro_f1, found.macro_auroc, found.log_loss]
        parts += [found.macro_auprc, found.kappa, found.brier]
        assert all(holds(part, part.value) for part in parts if part.value is not None)
        assert sum(part.value is not None for part in parts) > 15


def test_exact_intervals_hold_about_95_times_in_100():
    rng = np.random.default_rng(2)
    truth = evaluate(counts_of(rng, 200_000), CLASSES)
    made = [evaluate(counts_of(rng, 90), CLASSES) for _ in range(250)]
    for read in (
        lambda m: m.accuracy,
        lambda m: m.balanced_accuracy,
        lambda m: m.log_loss,
        lambda m: m.macro_auroc,
        lambda m: m.macro_f1,
        lambda m: m.classes[0].sensitivity,
        lambda m: m.classes[1].f1,
        lambda m: m.classes[2].auroc,
        lambda m: m.classes[2].auprc,
        lambda m: m.macro_auprc,
        lambda m: m.kappa,
        lambda m: m.brier,
    ):
        held = np.mean([holds(read(m), read(truth).value) for m in made])
        assert held >= 0.91, held
    # Negative control: intervals as if there were four times the cases don't hold as often.
    narrow = [wilson(4 * m.accuracy.hits, 4 * m.accuracy.cases) for m in made]
    assert np.mean([low <= truth.accuracy.value <= high for low, high in narrow]) < 0.8


@pytest.mark.parametrize("noise", [1.0, 3.0, 10.0])
def test_intervals_of_noised_counts_hold_about_95_times_in_100(noise):
    rng = np.random.default_rng(3)
    size = 150 if noise < 2 else 600
    truth = evaluate(counts_of(rng, 200_000), CLASSES)
    made = [evaluate(noised(rng, counts_of(rng, size), noise), CLASSES, noise) for _ in range(200)]
    for read in (
        lambda m: m.accuracy,
        lambda m: m.balanced_accuracy,
        lambda m: m.macro_auroc,
        lambda m: m.log_loss,
        lambda m: m.kappa,
        lambda m: m.brier,
        lambda m: m.macro_auprc,
    ):
        known = [read(m) for m in made if read(m).value is not None]
        if len(known) > 20:
            held = np.mean([holds(e, read(truth).value) for e in known])
            assert held >= 0.9, (noise, held)


def test_noise_widens_an_interval_as_documented():
    counts = counts_of(np.random.default_rng(4), 400, classes=2)
    exact = evaluate(counts, ("a", "b")).accuracy
    wide = evaluate(counts, ("a", "b"), 5.0).accuracy
    share = exact.value
    variance = 25 * (2 * (1 - share) ** 2 + 2 * share**2) / 400**2
    assert wide.value == share
    assert wide.value - wide.low == pytest.approx(math.hypot(share - exact.low, 1.959964 * math.sqrt(variance)))
    assert wide.high > exact.high
    assert wide.low < exact.low


def test_counts_drowned_in_noise_give_no_figure():
    rng = np.random.default_rng(5)
    found = evaluate(noised(rng, counts_of(rng, 100), 40.0), CLASSES, 40.0)
    assert found.accuracy.value is None
    assert found.accuracy.note == "noise"
    assert found.macro_auroc.note == "noise"
    assert np.min(found.confusion) >= 0


def test_fewer_than_five_cases_give_no_figure_but_say_how_many():
    counts = Counts.of([0, 0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]], 8)
    found = evaluate(counts, ("no", "yes"))
    assert found.accuracy.model_dump() == {
        "value": None, "low": None, "high": None, "hits": 3.0, "cases": 4.0, "note": "few-cases",
    }  # fmt: skip
    assert found.classes[0].sensitivity.note == "few-cases"
    assert found.balanced_accuracy.note == found.macro_auroc.note == "few-cases"


def test_a_class_without_cases_takes_the_means_with_it_and_nothing_else():
    counts = Counts.of([0] * 6 + [1] * 6, [[0.8, 0.1, 0.1]] * 6 + [[0.1, 0.8, 0.1]] * 6, 8)
    found = evaluate(counts, CLASSES)
    assert found.accuracy.value == 1.0
    assert found.classes[2].sensitivity.note == "no-cases"
    assert found.classes[2].specificity.value == 1.0
    assert found.balanced_accuracy.note == found.macro_auroc.note == "no-cases"


def test_a_perfect_score_is_not_certain():
    labels = np.repeat([0, 1], 10)
    found = evaluate(Counts.of(labels, np.eye(2)[labels], 8), ("no", "yes"))
    for part in (found.accuracy, found.balanced_accuracy, found.macro_auroc, found.macro_f1):
        assert part.value == part.high == 1.0
        assert part.low < 0.9


def test_slices_that_share_a_patient_do_not_make_more_cases():
    rng = np.random.default_rng(6)
    labels = rng.integers(2, size=200)
    scores = np.eye(2)[labels] * 0.6 + 0.2
    found = evaluate(Counts.of(labels, scores, 8, np.full(200, 1 / 20)), ("no", "yes"))
    assert found.accuracy.cases == pytest.approx(10)
    assert found.accuracy.low == pytest.approx(wilson(10, 10)[0])


def test_coarse_bins_widen_the_interval_of_an_auroc_enough_for_the_exact_area():
    rng = np.random.default_rng(7)
    labels = rng.integers(2, size=60)
    high = np.clip(0.96 + 0.02 * labels + 0.01 * rng.normal(size=60), 0, 1)  # all scores in the last bin
    found = evaluate(Counts.of(labels, np.stack([1 - high, high], axis=1), 8), ("no", "yes")).classes[1].auroc
    assert found.value == pytest.approx(0.5)
    assert holds(found, roc_auc_score(labels, high))


def test_final_metrics_pool_counts_and_noise():
    rng = np.random.default_rng(8)
    one, two = counts_of(rng, 400), counts_of(rng, 300)
    final = final_metrics({"south": (two, 4.0), "north": (one, 3.0)}, CLASSES)
    assert final.pooled == evaluate(one + two, CLASSES, 5.0)
    assert final.per_site == {"north": evaluate(one, CLASSES, 3.0), "south": evaluate(two, CLASSES, 4.0)}
    assert [curve.name for curve in final.roc] == list(CLASSES)
    assert final.roc[0].true_positive_rate[-1] == pytest.approx(1.0)
    assert final_metrics({}, CLASSES).pooled is None


def test_a_class_without_cases_has_no_roc_curve():
    counts = Counts.of([0, 1], [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]], 8)
    assert [curve.name for curve in roc_curves(counts, CLASSES)] == ["compression", "burst"]


def test_names_and_noise_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="classes has 2 names; expected 3"):
        evaluate(Counts.zero(3, 8), ("a", "b"))
    for noise in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="noise_std is"):
            evaluate(Counts.zero(3, 8), CLASSES, noise)
