import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from client.training.dp_step import PrivateStepper
from common.models.weights import initial_model, load_vector, to_vector
from common.privacy.plan import PrivacyPlan

QUIET = PrivacyPlan(
    sigma=0.0, sampling_rate=0.5, clip=0.7, steps_per_round=1, rounds=1, denominator=5, epsilon=8, delta=1e-3
)
VIEWS = 2


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(20, 3, 32, 32, generator=generator), torch.arange(20) % 2


@pytest.fixture
def model(study_of):
    return initial_model(study_of(model={"trainable": "norm+head"}), 0)


def moved(model, data, drawn, plan=QUIET, micro=None):
    """The step that one private update makes, at learning rate 1, as a vector."""
    inputs, labels = data

    def batch(patients):
        index = np.concatenate(patients) if len(patients) else np.empty(0, dtype=int)
        return inputs[index], labels[index]

    before = to_vector(model, trainable_only=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    stepper = PrivateStepper(model, optimizer, plan, VIEWS, batch)
    if micro:
        stepper._micro = micro
    stepper.step(drawn)
    stepper.close()
    after = to_vector(model, trainable_only=True)
    load_vector(model, before, trainable_only=True)
    return (before - after).astype(np.float64)


def patients(*numbers):
    return [np.array([2 * n, 2 * n + 1]) for n in numbers]


def naive(model, data, drawn, clip=QUIET.clip):
    """One patient at a time: mean gradient of its views, clipped, summed."""
    inputs, labels = data
    total = np.zeros(to_vector(model, trainable_only=True).size)
    for rows in drawn:
        model.zero_grad()
        F.cross_entropy(model(inputs[rows]), labels[rows]).backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.requires_grad]).double().numpy()
        total += gradient * min(1.0, clip / np.linalg.norm(gradient))
    model.zero_grad()
    return total


def test_a_step_is_the_sum_of_clipped_patient_means_over_the_public_denominator(model, data):
    drawn = patients(0, 3, 4, 7)
    expected = naive(model, data, drawn) / QUIET.denominator
    assert np.linalg.norm(moved(model, data, drawn) - expected) < 1e-4 * np.linalg.norm(expected)


def test_micro_batches_change_nothing(model, data):
    drawn = patients(0, 1, 2, 5, 8)
    whole = moved(model, data, drawn)
    assert np.allclose(moved(model, data, drawn, micro=2), whole, rtol=1e-3, atol=1e-6)
    assert np.allclose(moved(model, data, drawn, micro=1), whole, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_one_patient_more_moves_the_sum_by_at_most_the_clip(model, data, scale):
    inputs, labels = data
    inputs = inputs.clone()
    inputs[18:20] *= scale  # the attacker's own patient
    data = (inputs, labels)
    without = moved(model, data, patients(0, 1))
    with_one = moved(model, data, patients(0, 1, 9))
    difference = np.linalg.norm(with_one - without) * QUIET.denominator
    assert 0.5 * QUIET.clip < difference <= QUIET.clip * (1 + 1e-3)


def test_the_number_of_patients_drawn_does_not_change_the_denominator(model, data):
    one = moved(model, data, patients(2))
    assert np.linalg.norm(one) == pytest.approx(QUIET.clip / QUIET.denominator, rel=1e-3)


def test_an_empty_draw_adds_noise_like_any_other(model, data):
    plan = dataclasses.replace(QUIET, sigma=2.0)
    step = moved(model, data, [], plan)
    expected = plan.sigma * plan.clip / plan.denominator
    assert stats.kstest(step / expected, "norm").pvalue > 1e-6


def test_noise_has_the_stated_deviation_and_a_quarter_of_it_is_noticed(model, data):
    drawn = patients(0, 1, 2, 3)
    clean = moved(model, data, drawn)
    for claimed, real, fits in ((1.5, 1.5, True), (1.5, 1.5 / 4, False)):
        noise = moved(model, data, drawn, dataclasses.replace(QUIET, sigma=real), micro=2) - clean
        standard = noise / (claimed * QUIET.clip / QUIET.denominator)
        assert bool(stats.kstest(standard, "norm").pvalue > 1e-6) is fits


def test_torch_seeds_do_not_fix_the_noise(model, data):
    plan = dataclasses.replace(QUIET, sigma=1.0)
    torch.manual_seed(5)
    first = moved(model, data, patients(0), plan)
    torch.manual_seed(5)
    assert not np.allclose(first, moved(model, data, patients(0), plan))


def test_seeds_that_agree_in_their_low_bits_give_other_noise(model, data, monkeypatch):
    """The attack: torch's own generator uses 32 bits of a seed, few enough to try them all."""
    plan = dataclasses.replace(QUIET, sigma=1.0)
    steps = []
    for seed in (12345, 12345 + (77 << 32), 12345 + (77 << 200), 12345):
        monkeypatch.setattr("client.training.sampler.secrets.randbits", lambda bits, seed=seed: seed % 2**bits)
        steps.append(moved(model, data, patients(0), plan))
    assert np.array_equal(steps[0], steps[3])  # the noise has no other source
    assert not np.allclose(steps[0], steps[1])
    assert not np.allclose(steps[0], steps[2])


def test_a_patient_with_no_finite_gradient_counts_as_zero(model, data):
    inputs, labels = data
    inputs = inputs.clone()
    inputs[4] = float("nan")
    broken = moved(model, (inputs, labels), patients(0, 2, 3))
    assert np.isfinite(broken).all()
    assert np.allclose(broken, moved(model, data, patients(0, 3)), rtol=1e-3, atol=1e-6)


def test_nothing_of_a_step_is_left_for_the_next(model, data):
    inputs, labels = data
    seen = []

    def batch(drawn):
        seen.append(len(drawn))
        if len(seen) == 2:
            raise RuntimeError("aborted in mid-batch")
        index = np.concatenate(drawn) if len(drawn) else np.empty(0, dtype=int)
        return inputs[index], labels[index]

    before = to_vector(model, trainable_only=True)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    stepper = PrivateStepper(model, optimizer, QUIET, VIEWS, batch)
    stepper._micro = 1
    with pytest.raises(RuntimeError, match="aborted"):
        stepper.step(patients(0, 1))
    stepper.step([])
    stepper.close()
    assert np.array_equal(before, to_vector(model, trainable_only=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("views", [1, 2])
def test_opacus_gives_every_parameter_of_every_resnet_its_example_gradient(study_of, data, name, views):
    model = initial_model(study_of(model={"name": name}), 0).double()  # so that only the formula is compared
    inputs, labels = data[0].double(), data[1]
    drawn = [np.arange(n * views, (n + 1) * views) for n in range(2)]
    expected = naive(model, (inputs, labels), drawn) / QUIET.denominator
    before = parameters_of(model)
    stepper = PrivateStepper(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        QUIET,
        views,
        lambda some: (inputs[np.concatenate(some)], labels[np.concatenate(some)]),
    )
    stepper.step(drawn)
    stepper.close()
    step = before - parameters_of(model)
    assert np.linalg.norm(step - expected) < 1e-5 * np.linalg.norm(expected)


def parameters_of(model):
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).numpy()
