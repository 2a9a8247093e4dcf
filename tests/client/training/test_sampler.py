import numpy as np
import pytest
from scipy import stats

from client.training.randomness import KEY_BYTES, Keystream
from client.training.sampler import fixed_draw, poisson_draw


@pytest.fixture
def stream() -> Keystream:
    return Keystream(bytes(KEY_BYTES))


def test_each_patient_is_drawn_independently_at_the_public_rate(stream):
    draws = np.array([np.bincount(poisson_draw(20, 0.3, stream), minlength=20) for _ in range(4000)])
    assert stats.binomtest(int(draws.sum()), 80000, 0.3).pvalue > 1e-6
    sizes = draws.sum(axis=1)
    assert stats.chisquare(*_binned(sizes)).pvalue > 1e-6
    correlation = np.corrcoef(draws.T)[np.triu_indices(20, 1)]
    assert np.abs(correlation).max() < 0.09
    assert abs(np.corrcoef(sizes[1:], sizes[:-1])[0, 1]) < 0.08


def test_a_fixed_size_draw_is_told_apart_from_poisson_by_the_same_check(stream):
    sizes = np.array([len(fixed_draw(20, 6, stream)) for _ in range(4000)])
    assert stats.chisquare(*_binned(sizes)).pvalue < 1e-6


def test_another_rate_is_told_apart_by_the_same_check(stream):
    sizes = np.array([len(poisson_draw(20, 0.28, stream)) for _ in range(4000)])
    assert stats.chisquare(*_binned(sizes)).pvalue < 1e-6


def test_a_draw_may_be_empty_and_rate_one_draws_everyone(stream):
    assert any(len(poisson_draw(3, 0.2, stream)) == 0 for _ in range(100))
    assert all(len(poisson_draw(5, 1.0, stream)) == 5 for _ in range(200))


def test_two_secret_streams_draw_different_patients():
    np.random.seed(7)
    first = poisson_draw(200, 0.5, Keystream.secret())
    np.random.seed(7)
    assert not np.array_equal(first, poisson_draw(200, 0.5, Keystream.secret()))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, float("nan")])
def test_a_rate_outside_zero_to_one_is_refused(rate, stream):
    with pytest.raises(ValueError, match="rate"):
        poisson_draw(3, rate, stream)


def test_a_fixed_draw_has_distinct_patients_and_at_most_all(stream):
    assert len(set(fixed_draw(10, 4, stream))) == 4
    assert sorted(fixed_draw(3, 9, stream)) == [0, 1, 2]


def _binned(sizes):
    """Observed and expected counts of Binomial(20, 0.3) sizes, tails merged."""
    edges = np.arange(2, 11)
    observed = np.bincount(np.clip(sizes, 2, 10), minlength=11)[2:]
    cdf = stats.binom(20, 0.3).cdf(edges)
    expected = np.diff(np.concatenate([[0], cdf[:-1], [1]])) * len(sizes)
    return observed, expected
