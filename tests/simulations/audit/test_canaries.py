import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client.training.views import to_input
from common.privacy.accounting import epsilon
from common.privacy.events import SubsampledGaussian
from common.privacy.plan import plan_for
from simulations.audit.bounds import Guesses
from simulations.audit.canaries import (
    Canaries,
    Game,
    LinearNetwork,
    bounds_of,
    canary_audit,
    canary_check,
    play,
    rehearse,
    sum_of_ratios,
)
from simulations.audit.family import event_of, f_dp_epsilon


@pytest.mark.parametrize("count", [1, 50, 64, 1000])
def test_the_gradients_of_canaries_are_at_right_angles_and_longer_than_the_clip(count):
    cohort = Canaries(count)
    products = cohort.directions.T @ cohort.directions
    assert torch.allclose(products, torch.eye(count), atol=1e-5)
    model = LinearNetwork(cohort.side, clip=0.7)
    inputs = to_input(cohort.pixels(cohort.patients[-1][:1]))
    F.cross_entropy(model(inputs), torch.tensor([0])).backward()
    gradient = model.head.weight.grad
    assert gradient.norm() > 10 * 0.7
    assert torch.allclose(gradient.sum(0), torch.zeros(cohort.side**2), atol=1e-5)
    signal = (gradient[1] - gradient[0]) @ cohort.directions[:, -1] * 0.5**0.5
    assert signal == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_without_noise_every_canary_is_found_and_its_length_is_the_clip(study):
    plan = dataclasses.replace(plan_for(study), sigma=0.0, sampling_rate=1.0)
    game = play(study, plan, 64, np.random.default_rng(0))
    assert game.steps == 12
    assert game.noise < 1e-3
    assert game.guesses(64) == Guesses(64, 64, 64)


def test_the_noise_found_is_the_noise_planned(study):
    plan = plan_for(study)
    game = play(study, plan, 400, np.random.default_rng(0))
    assert game.noise == pytest.approx(plan.sigma, rel=0.05)


def test_the_real_step_gives_the_guesses_of_the_ideal_mechanism(study):
    """The rehearsal knows nothing of the code; over several games both find the same share."""
    plan = plan_for(study)
    real = [play(study, plan, 400, np.random.default_rng(s)).guesses(360).right for s in range(6)]
    ideal = [rehearse(event_of(plan), plan.sigma, 400, np.random.default_rng(s)).guesses(360).right for s in range(60)]
    assert abs(np.mean(real) - np.mean(ideal)) < 5 * np.std(ideal) / 6**0.5


def test_the_ratio_is_that_of_the_mixture():
    signals = np.array([[0.3], [1.2]])

    def density(z, mean):
        return np.exp(-((z - mean) ** 2) / (2 * 0.8**2))

    expected = sum(np.log(0.25 * density(z, 1) / density(z, 0) + 0.75) for z in signals[:, 0])
    assert sum_of_ratios(signals, 0.8, 0.25)[0] == pytest.approx(expected)


def test_who_guesses_takes_the_surest_first():
    game = Game(np.array([True, False, True, False]), np.array([3.0, 2.0, -0.1, -4.0]), 1.0, 1)
    assert [game.guesses(made).right for made in (1, 2, 3, 4)] == [1, 2, 2, 2]


def test_more_noise_than_the_claim_needs_lowers_the_bound():
    event = SubsampledGaussian(1.0, 1.0, 1)
    high, low = (f_dp_epsilon(Guesses(500, 100, right), event, 1e-5) for right in (99, 80))
    assert high > low > 0


@pytest.mark.parametrize(("q", "steps"), [(1.0, 20), (0.25, 40)])
def test_the_bound_lies_below_the_truth_for_a_mechanism_that_is_right(q, steps):
    event = SubsampledGaussian(4.0, q, steps)
    truth = epsilon([event], 1e-5)
    for seed in range(4):
        game = rehearse(event, event.sigma, 1000, np.random.default_rng(seed))
        bounds = bounds_of(game, event, 1e-5)
        assert 0.2 * truth < bounds.f_dp < truth
        assert 0 < bounds.steinke < truth


def test_too_few_canaries_are_said_to_be_too_few(small_study):
    study = small_study(privacy={"epsilon": 50.0, "delta": 1e-3})
    result = canary_audit(study, plan_for(study), 60, np.random.default_rng(0))
    assert not result.has_power
    assert canary_check(result).passed
    assert "too few" in canary_check(result).found
