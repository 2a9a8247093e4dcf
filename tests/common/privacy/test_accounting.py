"""Epsilon against closed forms, published figures and other accountants."""

from __future__ import annotations

import inspect
import logging
import math
import sys

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from common.errors import UsageError
from common.privacy import accounting
from common.privacy.accounting import epsilon, epsilon_rdp, noise_multiplier, privacy_curve
from common.privacy.events import Gaussian, SubsampledGaussian

MNIST = [SubsampledGaussian(1.1, 256 / 60_000, 14_062)]  # the DP-SGD tutorials' example: 60 epochs, batch 256
ABADI = [SubsampledGaussian(4.0, 0.01, 10_000)]  # Abadi et al. 2016, section 3.2


def one_step_delta(eps: float, sigma: float, q: float) -> float:
    """Delta of one Poisson-sampled Gaussian step, by integrating the likelihood ratio; the worse direction.

    P = (1 - q) N(0, sigma^2) + q N(1, sigma^2), Q = N(0, sigma^2); the ratio P/Q rises in x.
    """

    def cut(ratio: float) -> float:
        return sigma**2 * math.log((ratio - (1 - q)) / q) + 0.5 if ratio > 1 - q else -math.inf

    def mix(x: float, *, upper: bool) -> float:
        tail = norm.sf if upper else norm.cdf
        return float((1 - q) * tail(x / sigma) + q * tail((x - 1) / sigma))

    above, below = cut(math.exp(eps)), cut(math.exp(-eps))
    remove = mix(above, upper=True) - math.exp(eps) * norm.sf(above / sigma)
    add = norm.cdf(below / sigma) - math.exp(eps) * mix(below, upper=False) if math.isfinite(below) else 0.0
    return max(remove, add)


def test_no_events_cost_nothing():
    assert epsilon([], 1e-5) == 0.0
    assert epsilon_rdp([], 1e-5) == 0.0


@pytest.mark.parametrize(
    ("sigma", "q", "delta"),
    [(1.0, 0.01, 1e-5), (0.6, 0.1, 1e-3), (2.0, 0.5, 1e-5), (0.4, 0.05, 1e-3), (5.0, 0.9, 1e-6)],
)
def test_one_sampled_step_costs_what_its_closed_form_says(sigma, q, delta):
    exact = brentq(lambda eps: one_step_delta(eps, sigma, q) - delta, 1e-9, 60, xtol=1e-10)
    assert exact <= epsilon([SubsampledGaussian(sigma, q, 1)], delta) <= exact * 1.001


def test_full_batch_noise_is_the_analytic_gaussian():
    assert noise_multiplier(1.0, 1e-5, 1.0, 1) == pytest.approx(3.7306, abs=1e-3)  # Balle and Wang 2018's code


@pytest.mark.parametrize(("mu", "delta"), [(0.5, 1e-5), (1.0, 1e-3), (3.0, 1e-6)])
def test_a_full_batch_is_charged_as_a_plain_gaussian(mu, delta):
    eps = epsilon([SubsampledGaussian(10 / mu, 1.0, 100)], delta)
    # Theorem 8 of Balle and Wang 2018.
    assert norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu) == pytest.approx(delta, rel=1e-6)
    assert epsilon([Gaussian(10 / mu, 100)], delta) == eps


def test_the_moments_accountant_of_2016_is_matched_and_tightened():
    assert epsilon_rdp(ABADI, 1e-5) <= 1.26  # the published figure; its conversion to epsilon was looser
    assert epsilon(ABADI, 1e-5) == pytest.approx(0.947, abs=0.005)
    old_conversion = min(_rdp_of(ABADI[0], order) + math.log(1e5) / (order - 1) for order in range(2, 33))
    assert old_conversion == pytest.approx(1.26, abs=0.01)


def test_the_tutorial_run_costs_about_three_by_its_own_conversion_and_less_by_ours():
    old_conversion = min(_rdp_of(MNIST[0], order) + math.log(1e5) / (order - 1) for order in range(2, 33))
    assert old_conversion == pytest.approx(3.01, abs=0.02)
    assert epsilon_rdp(MNIST, 1e-5) == pytest.approx(2.60, abs=0.01)
    assert epsilon(MNIST, 1e-5) == pytest.approx(2.38, abs=0.01)


# sigma, examples, batch, steps, delta, epsilon by RDP, digits that were published
PUBLISHED = {
    # tensorflow/privacy, privacy/analysis/compute_dp_sgd_privacy_test.py: 15 and 30 epochs
    "MNIST, TensorFlow Privacy": (1.3, 60_000, 150, 6_000, 1e-5, 0.7242234026109595, 1e-10),
    "100,000 examples, TensorFlow Privacy": (1.0, 100_000, 100, 30_000, 1e-7, 1.4154988495444845, 1e-10),
    # google-deepmind/jax_privacy, accounting/calibrate_test.py; over fewer orders, hence a little looser
    "CIFAR-10, JAX-Privacy": (4.0, 50_000, 1_024, 10_000, 1e-5, 2.27535, 1e-3),
    # De et al. 2022: as many steps as (8, 8e-7) lets; google-deepmind/jax_privacy, imagenet_nf_resnet_50_eps8.py
    "ImageNet, De et al. 2022": (2.5, 1_281_167, 16_384, 71_589, 8e-7, 8.0, 0.1),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_published_figures_are_reproduced_by_rdp_and_tightened_by_pld(name):
    sigma, examples, batch, steps, delta, published, digits = PUBLISHED[name]
    events = [SubsampledGaussian(sigma, batch / examples, steps)]
    assert epsilon_rdp(events, delta) == pytest.approx(published, abs=digits)
    assert 0.75 * published < epsilon(events, delta) < 0.95 * published


def _rdp_of(event: SubsampledGaussian, order: int) -> float:
    """Renyi divergence of whole order by the binomial sum (Mironov, Talwar and Zhang 2019, eq. 4)."""
    q, sigma = event.q, event.sigma
    terms = (
        math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp(k * (k - 1) / (2 * sigma**2))
        for k in range(order + 1)
    )
    return event.steps * math.log(math.fsum(terms)) / (order - 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # other projects' imports
@pytest.mark.parametrize(("sigma", "q", "steps", "delta"), [(1.1, 0.01, 1000, 1e-5), (1.0, 0.1, 200, 1e-3)])
def test_the_prv_accountant_agrees_within_two_hundredths(sigma, q, steps, delta):
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(sigma, q, steps)]
    theirs = other.get_epsilon(delta, eps_error=0.01)
    assert epsilon([SubsampledGaussian(sigma, q, steps)], delta) == pytest.approx(theirs, abs=0.02)


SETTINGS = st.tuples(st.floats(0.5, 20), st.floats(0.001, 1), st.integers(1, 300), st.sampled_from([1e-3, 1e-5, 1e-8]))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(SETTINGS)
def test_pld_is_never_above_rdp(case):
    sigma, q, steps, delta = case
    events = [SubsampledGaussian(sigma, q, steps)]
    assert epsilon(events, delta) <= epsilon_rdp(events, delta) * 1.001 + 1e-6


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(SETTINGS)
def test_more_steps_or_a_higher_rate_or_less_noise_never_cost_less(case):
    sigma, q, steps, delta = case
    base = epsilon([SubsampledGaussian(sigma, q, steps)], delta) * (1 - 1e-3) - 1e-6
    assert base <= epsilon([SubsampledGaussian(sigma, q, 2 * steps)], delta)
    assert base <= epsilon([SubsampledGaussian(sigma, min(1.0, 1.5 * q), steps)], delta)
    assert base <= epsilon([SubsampledGaussian(sigma / 1.5, q, steps)], delta)


@settings(max_examples=10, deadline=None)
@given(SETTINGS)
def test_adding_a_release_never_costs_less_and_order_never_counts(case):
    sigma, q, steps, delta = case
    training, counts = SubsampledGaussian(sigma, q, steps), Gaussian(4.0)
    together = epsilon([training, counts], delta)
    assert together == epsilon([counts, training], delta)
    assert together >= epsilon([training], delta) * (1 - 1e-3) - 1e-6
    assert together >= epsilon([counts], delta) * (1 - 1e-3) - 1e-6


def test_segments_of_one_mechanism_cost_the_same_in_one_piece_or_many():
    pieces = [SubsampledGaussian(1.0, 0.1, 10)] * 20
    assert epsilon(pieces, 1e-3) == epsilon([SubsampledGaussian(1.0, 0.1, 200)], 1e-3)


@pytest.fixture
def composed(monkeypatch):
    """The steps of each segment that was composed; caches are emptied before and after."""
    asked = []
    self_compose, compose = accounting.pld.PrivacyLossDistribution.self_compose, accounting.rdp.RdpAccountant.compose

    def by_pld(self, count):
        asked.append(count)
        return self_compose(self, count)

    def by_rdp(self, event, count=1):
        asked.append(count)
        return compose(self, event, count)

    monkeypatch.setattr(accounting.pld.PrivacyLossDistribution, "self_compose", by_pld)
    monkeypatch.setattr(accounting.rdp.RdpAccountant, "compose", by_rdp)
    caches = (
        *(accounting._epsilon_pld, accounting._epsilon_rdp, accounting._noise_multiplier),
        *(accounting._together, accounting._steps),
    )
    for cache in caches:
        cache.cache_clear()
    yield asked
    for cache in caches:
        cache.cache_clear()


def test_ten_thousand_steps_are_composed_at_once(composed):
    """The work grows with the number of distinct mechanisms, not with steps, rounds or rows."""
    rounds = [SubsampledGaussian(4.0123, 0.01, 20), Gaussian(10.0), SubsampledGaussian(3.0, 1.0, 2)] * 500
    epsilon(rounds, 1e-5)
    assert composed == [10_000]  # one sampled mechanism; all others are one Gaussian, which needs no such work
    epsilon_rdp(rounds, 1e-5)
    assert composed == [10_000, 10_000, 1]
    epsilon([*reversed(rounds)], 1e-5)
    assert len(composed) == 3  # known already


MANY = [SubsampledGaussian(2.0 + 0.3 * place, 0.05, 100 + place) for place in range(8)]


def test_a_budget_after_each_of_many_studies_composes_each_study_once(composed):
    for done in range(2, len(MANY) + 1):
        epsilon([*MANY[:done], Gaussian(20.0, done)], 1e-5)
    widths = {accounting._interval(accounting._merge([*MANY[:d], Gaussian(20.0, d)])) for d in range(2, len(MANY) + 1)}
    assert len(composed) <= len(MANY) * len(widths)
    assert len(widths) <= 2


@pytest.mark.parametrize("events", [MNIST, ABADI, MANY, [*MANY, Gaussian(3.0, 2)], [*MNIST, Gaussian(5.0)]])
def test_pld_is_what_the_librarys_own_accountant_says_on_this_grid_and_never_below_a_finer_one(events):
    segments = accounting._merge(events)
    width = accounting._interval(segments)

    def theirs(interval):
        accountant = dp_accounting.pld.PLDAccountant(
            dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=interval
        )
        for sigma, q, steps in segments[0]:
            accountant.compose(dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma)), steps)
        if segments[1]:
            accountant.compose(dp_accounting.GaussianDpEvent(segments[1] ** -0.5))
        return accountant.get_epsilon(1e-5)

    assert epsilon(events, 1e-5) == pytest.approx(theirs(width), rel=1e-9)
    assert theirs(width / 4) * (1 - 1e-9) <= epsilon(events, 1e-5) <= theirs(width / 4) * 1.001


def test_mechanisms_without_sampling_need_no_accountant(composed):
    epsilon([Gaussian(10.0, 400), SubsampledGaussian(30.0, 1.0, 600)], 1e-5)
    assert composed == []


def test_equal_gaussians_cost_exactly_the_same_in_one_piece_or_many():
    assert epsilon([Gaussian(7.3)] * 13, 1e-5) == epsilon([Gaussian(7.3, 13)], 1e-5)


def test_a_delta_below_the_grid_falls_back_to_rdp():
    assert epsilon(MNIST, 1e-17) == epsilon_rdp(MNIST, 1e-17)
    assert math.isfinite(epsilon(MNIST, 1e-17))


@pytest.mark.parametrize(
    "events",
    [
        [SubsampledGaussian(0.01, 0.5, 1000)],
        [SubsampledGaussian(0.05, 0.001, 10), Gaussian(0.02, 100)],
        [Gaussian(0.01, 10_000_000)],
    ],
)
def test_hardly_any_noise_is_charged_far_above_every_budget_without_a_grid(events, monkeypatch):
    monkeypatch.setattr(accounting.pld, "from_gaussian_mechanism", None)  # its grid would not fit in memory
    assert epsilon(events, 1e-5) > 1000


def test_a_series_that_does_not_converge_is_no_business_of_the_user(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        epsilon_rdp([SubsampledGaussian(1.01, 0.1, 7)], 1e-5)
    assert not caplog.records
    assert not logging.getLogger("absl").filters


@pytest.mark.parametrize("delta", [0, 1, -1e-5, 1.5, float("nan")])
def test_a_delta_that_is_no_probability_is_refused(delta):
    with pytest.raises(UsageError, match="delta"):
        epsilon([], delta)
    with pytest.raises(UsageError, match="delta"):
        noise_multiplier(1.0, delta, 0.1, 10)


@pytest.mark.parametrize(
    ("target", "delta", "q", "steps"),
    [(8.0, 1e-3, 0.1, 200), (8.0, 1e-5, 0.01, 1000), (1.0, 1e-5, 1.0, 100), (0.5, 1e-6, 0.3, 50), (8.0, 1e-3, 0.5, 1)],
)
def test_the_noise_multiplier_is_enough_and_a_thousandth_less_is_not(target, delta, q, steps):
    sigma = noise_multiplier(target, delta, q, steps)
    assert epsilon([SubsampledGaussian(sigma, q, steps)], delta) <= target
    assert epsilon([SubsampledGaussian(sigma * 0.999, q, steps)], delta) > target


def test_the_noise_multiplier_agrees_with_the_full_batch_formula():
    assert noise_multiplier(1.0, 1e-5, 1.0, 400) == pytest.approx(dp_accounting.get_sigma_gaussian(1.0, 1e-5) * 20)


def test_the_noise_multiplier_is_solved_once(composed):
    noise_multiplier(3.0, 1e-4, 0.2, 30)
    first = len(composed)
    assert 0 < first < 30
    noise_multiplier(3.0, 1e-4, 0.2, 30)
    assert len(composed) == first


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.1, 20),
    st.sampled_from([1e-3, 1e-5, 1e-8]),
    st.one_of(st.just(1.0), st.floats(0.01, 1)),
    st.integers(1, 2000),
)
def test_any_noise_multiplier_is_within_a_thousandth_of_the_least(target, delta, q, steps):
    try:
        sigma = noise_multiplier(target, delta, q, steps)
    except UsageError:
        assert delta >= q / 2  # nothing to promise
        return
    assert epsilon([SubsampledGaussian(sigma, q, steps)], delta) <= target
    if sigma > 0.02:  # the least that an event may have is 0.01
        assert epsilon([SubsampledGaussian(sigma * 0.999, q, steps)], delta) > target


@pytest.mark.parametrize("target", [0, -1, float("nan"), float("inf"), 101])
def test_an_impossible_target_is_refused_by_value(target):
    with pytest.raises(UsageError, match="target epsilon"):
        noise_multiplier(target, 1e-5, 0.1, 10)


def test_a_delta_that_promises_nothing_is_refused():
    with pytest.raises(UsageError, match="promise nothing"):
        noise_multiplier(8.0, 0.01, 0.001, 10)


def test_a_ledger_of_many_mechanisms_nests_no_calls():
    mechanisms = [SubsampledGaussian(6.0 + i / 50, 0.07, 3) for i in range(300)]
    alike = epsilon([SubsampledGaussian(9.0, 0.07, 900)], 1e-5)
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 250)
    try:
        assert epsilon(mechanisms, 1e-5) == pytest.approx(alike, rel=0.1)
    finally:
        sys.setrecursionlimit(usual)


@pytest.mark.parametrize(
    "events",
    [[SubsampledGaussian(1.1, 0.05, 50)], [SubsampledGaussian(2.0, 1.0, 10)], [Gaussian(3.0), Gaussian(1.0)]],
    ids=["sampled", "full batches", "counts"],
)
def test_the_privacy_curve_is_the_inverse_of_epsilon(events):
    deltas = np.array([1e-2, 1e-4, 1e-6])
    found = privacy_curve(events, np.array([epsilon(events, delta) for delta in deltas]))
    assert found == pytest.approx(deltas, rel=1e-3)


def test_the_privacy_curve_of_one_sampled_step_is_the_integral():
    for eps in (0.0, 0.5, 2.0):
        (found,) = privacy_curve([SubsampledGaussian(0.8, 0.2, 1)], np.array([eps]))
        assert found == pytest.approx(one_step_delta(eps, 0.8, 0.2), rel=1e-2, abs=1e-9)


def test_a_privacy_curve_of_nothing_is_refused():
    with pytest.raises(UsageError, match="no events"):
        privacy_curve([], np.array([1.0]))
