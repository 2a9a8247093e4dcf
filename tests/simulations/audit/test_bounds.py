import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import linprog
from scipy.special import ndtr

from common.privacy.accounting import privacy_curve
from common.privacy.events import Gaussian
from simulations.audit.bounds import Guesses, TradeOff, f_dp_possible, steinke_epsilon, steinke_p_value

PAIR = TradeOff(np.array([1.0]), np.array([0.01]))


def gaussian(sigma, points=200):
    epsilons = np.linspace(0, 12 / sigma, points)
    return TradeOff(epsilons, privacy_curve([Gaussian(sigma)], epsilons))


def naive_p_value(m, r, v, epsilon, delta):
    """Theorem 5.2 of Steinke et al., term by term."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    pmf = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    tail = sum(pmf[v:])
    alpha = max((sum(pmf[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
    return min(1.0, tail + 2 * m * delta * alpha)


@pytest.mark.parametrize(("m", "r", "v"), [(20, 20, 17), (20, 10, 10), (30, 7, 0), (5, 5, 5), (40, 25, 13)])
@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (0.7, 1e-3), (2.0, 0.0), (4.0, 1e-2)])
def test_the_p_value_is_the_theorems(m, r, v, epsilon, delta):
    assert steinke_p_value(Guesses(m, r, v), epsilon, delta) == pytest.approx(naive_p_value(m, r, v, epsilon, delta))


def test_the_bound_of_steinke_is_where_the_p_value_crosses_the_level():
    guesses = Guesses(1000, 200, 190)
    bound = steinke_epsilon(guesses, 1e-5)
    assert steinke_p_value(guesses, bound, 1e-5) <= 0.05 < steinke_p_value(guesses, bound + 1e-3, 1e-5)


def test_without_delta_the_bound_is_that_of_a_coin():
    """Clopper and Pearson's lower limit of the coin's chance, as an epsilon."""
    chance = stats.beta.ppf(0.05, 90, 100 - 90 + 1)
    assert steinke_epsilon(Guesses(100, 100, 90), 0.0) == pytest.approx(math.log(chance / (1 - chance)), abs=1e-6)


def test_guesses_no_better_than_chance_prove_nothing():
    assert steinke_epsilon(Guesses(1000, 1000, 505), 1e-5) == 0.0
    assert f_dp_possible(Guesses(1000, 1000, 505), gaussian(1000.0))


def test_a_larger_delta_only_weakens_the_bound():
    bounds = [steinke_epsilon(Guesses(1000, 500, 480), delta) for delta in (0.0, 1e-5, 1e-4, 1e-3)]
    assert bounds == sorted(bounds, reverse=True)


@pytest.mark.parametrize("wrong", [(10, 11, 3), (10, 5, 6), (10, 0, 0), (10, 5, -1)])
def test_impossible_guesses_are_refused(wrong):
    with pytest.raises(ValueError, match="expected 0 <= right"):
        Guesses(*wrong)


def naive_largest_chance(m, r, v, curve):
    """The most that P[right >= v] can be, by linear programming over all distributions of the number right."""
    numbers = np.arange(r + 1)
    rows, limits = [], []
    for c in range(1, r + 1):
        hits = np.where(numbers >= c, numbers / m, 0)
        misses = np.where(numbers >= c - 1, (r - numbers) / m, 0)
        for epsilon, delta in zip(curve.epsilons, curve.deltas, strict=True):
            rows.append(hits - math.exp(epsilon) * misses)
            limits.append(delta)
            rows.append(hits - math.exp(-epsilon) * misses)
            limits.append(1 - math.exp(-epsilon) * (1 - delta))
    found = linprog(
        -(numbers >= v).astype(float), A_ub=rows, b_ub=limits, A_eq=[np.ones(r + 1)], b_eq=[1.0], method="highs"
    )
    return -found.fun


@pytest.mark.parametrize("curve", [PAIR, gaussian(1.0, 12), gaussian(3.0, 12)], ids=["pair", "sigma 1", "sigma 3"])
@pytest.mark.parametrize(("m", "r", "v"), [(12, 12, 12), (12, 12, 9), (20, 8, 7), (20, 8, 8), (30, 15, 10)])
def test_the_recursion_finds_what_linear_programming_finds(curve, m, r, v):
    largest = naive_largest_chance(m, r, v, curve)
    assert f_dp_possible(Guesses(m, r, v), curve, largest * 0.999)
    if largest < 0.999:
        assert not f_dp_possible(Guesses(m, r, v), curve, largest * 1.001 + 1e-9)


def test_the_curve_of_a_gaussian_is_the_known_one():
    curve = gaussian(0.8, 400)
    for chance in (1e-4, 0.01, 0.3, 0.9):
        exact = ndtr(stats.norm.ppf(chance) + 1 / 0.8)
        assert curve.most(chance) == pytest.approx(exact, rel=2e-3)
        assert curve.most(chance) >= exact - 1e-12
        assert curve.least(curve.most(chance)) == pytest.approx(chance, rel=1e-6)


def test_a_point_more_never_loosens_a_curve():
    few, many = gaussian(1.0, 10), gaussian(1.0, 100)
    assert all(many.most(x) <= few.most(x) + 1e-3 for x in (0.001, 0.05, 0.5))


def test_a_mechanism_that_is_right_is_seldom_refuted():
    """1,000 games against Gaussian noise: the true curve is refuted in no more than 5 % of them."""
    rng = np.random.default_rng(0)
    m, r, mu, curve = 100, 40, 2.0, gaussian(0.5, 400)
    refuted = 0
    for _ in range(1000):
        inside = rng.random(m) < 0.5
        ratio = mu * (mu * inside + rng.standard_normal(m)) - mu * mu / 2
        surest = np.argsort(-np.abs(ratio))[:r]
        right = int(((ratio > 0) == inside)[surest].sum())
        refuted += not f_dp_possible(Guesses(m, r, right), curve)
    assert refuted <= 50
