import dataclasses
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from client.training import dp_step
from client.training.dp_step import PrivateStepper
from common.errors import UsageError
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


def test_the_noise_has_no_source_but_the_key_of_the_operating_system(model, data, monkeypatch):
    plan = dataclasses.replace(QUIET, sigma=1.0)
    steps = []
    for key in (1, 2, 1):
        monkeypatch.setattr("client.training.randomness.secrets.token_bytes", lambda size, key=key: bytes([key]) * size)
        steps.append(moved(model, data, patients(0), plan))
    assert np.array_equal(steps[0], steps[2])
    assert not np.allclose(steps[0], steps[1])


def test_no_two_parameters_and_no_two_steps_share_their_noise(model, data):
    """Where a keystream is used twice, the difference of two releases is free of noise."""
    plan = dataclasses.replace(QUIET, sigma=1.0)
    noise = moved(model, data, [], plan)
    sizes = [p.numel() for p in model.parameters() if p.requires_grad]
    parts = np.split(noise, np.cumsum(sizes)[:-1])
    assert not any(np.array_equal(one[:64], two[:64]) for i, one in enumerate(parts) for two in parts[:i])
    assert not np.allclose(noise, moved(model, data, [], plan))


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
        if len(seen) == 3:  # the first call asks for the shape, the second builds the first micro-batch
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


def calls_in_a_step(model, data, drawn):
    """The functions of ours that a step enters, in order; a loop over patients counts once."""
    seen = []

    def watch(frame, event, argument):
        if event == "call" and "/client/training/" in frame.f_code.co_filename:
            seen.append((frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_qualname))

    sys.setprofile(watch)  # of this thread: noise is drawn in others
    try:
        moved(model, data, drawn)
    finally:
        sys.setprofile(None)
    return [call for i, call in enumerate(seen) if i == 0 or call != seen[i - 1]]


@pytest.mark.parametrize("drawn", [[], patients(3), patients(*range(10))], ids=["nobody", "one", "all"])
def test_a_step_takes_the_same_path_whoever_is_drawn(study_of, data, drawn):
    model = initial_model(study_of(), 0)
    calls_in_a_step(model, data, patients(0))  # a process's first step also makes its threads
    usual = calls_in_a_step(model, data, patients(1, 2))
    assert len(usual) > 100
    assert calls_in_a_step(model, data, drawn) == usual


def test_a_micro_batch_keeps_to_the_memory_that_it_may_use(study_of, data, monkeypatch):
    model = initial_model(study_of(), 0)
    need = dp_step.example_bytes(model, data[0][:0])
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.data_ptr(), t.untyped_storage().nbytes()) and t, lambda t: t
    ):
        model(data[0][:8])
    weights = sum(kept.get(p.data_ptr(), 0) for p in model.parameters())
    assert need == pytest.approx((sum(kept.values()) - weights) / 8, rel=0.05)
    for memory, expected in ((9 * need, 4), (need, 1), (1, 1)):
        monkeypatch.setattr(dp_step, "ACTIVATION_MEMORY", memory)
        optimizer = torch.optim.SGD(model.parameters())
        stepper = PrivateStepper(model, optimizer, QUIET, VIEWS, lambda drawn: (data[0][:0], data[1][:0]))
        assert stepper._micro == expected


def test_an_optimizer_over_other_parameters_is_refused(model, data):
    optimizer = torch.optim.SGD(model.fc.parameters())
    with pytest.raises(UsageError, match="the optimizer's parameters are not the model's trainable ones"):
        PrivateStepper(model, optimizer, QUIET, VIEWS, lambda drawn: (data[0][:0], data[1][:0]))


def test_nothing_is_left_on_the_model_when_the_round_ends(model, data):
    moved(model, data, patients(0, 1))
    assert all(p.grad is None and getattr(p, "summed_grad", None) is None for p in model.parameters())
