"""What pulls a site back, and that it comes after clipping and noise."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from client.training import local
from client.training.drift import correct
from client.training.local import train_round
from client.training.randomness import KEY_BYTES, Keystream
from common.models import parts
from common.models.weights import initial_model
from common.privacy.plan import plan_for

RATE, MU = 0.1, 0.5


def descent(weight, steps, mu, correction):
    """Plain gradient steps on w**2 / 2 + mu / 2 * (w - w0)**2 + correction * w, by hand."""
    start, path = weight.copy(), weight.copy()
    for _ in range(steps):
        path = path - RATE * (path + mu * (path - start) + correction)
    return path


@pytest.mark.parametrize(("mu", "correction"), [(MU, None), (0.0, [1.0, -2.0, 0.5]), (MU, [1.0, -2.0, 0.5])])
def test_steps_are_those_of_the_papers(mu, correction):
    weight = nn.Parameter(torch.tensor([1.0, 2.0, -3.0]))
    before = weight.detach().numpy().copy()
    optimizer = torch.optim.SGD([weight], lr=RATE)
    vector = None if correction is None else np.array(correction, dtype=np.float32)
    correct(optimizer, [weight], mu, vector)
    for _ in range(5):
        optimizer.zero_grad()
        (weight**2).sum().div(2).backward()
        optimizer.step()
    expected = descent(before, 5, mu, 0 if vector is None else vector)
    assert np.allclose(weight.detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bad", [np.ones(2, np.float32), np.array([1, np.nan, 0], np.float32)])
def test_a_correction_that_does_not_fit_is_refused(bad):
    weight = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="correction"):
        correct(torch.optim.SGD([weight], lr=RATE), [weight], 0.0, bad)


@pytest.fixture
def change(study_of, examples, monkeypatch):
    """The change of the shared weights in a private round whose secret is known, so that noise and draws are equal."""
    monkeypatch.setattr(local.Keystream, "secret", lambda: Keystream(bytes(KEY_BYTES)))

    def make(correction=None, patients=None, **sections):
        study = study_of(
            **{"model": {"trainable": "head"}, "training": {"local_steps": 1, "learning_rate": 1.0}, **sections}
        )
        model = initial_model(study, 0)
        before = parts.read(parts.shared(model, study))
        vector = None if correction is None else np.full(before.size, correction, dtype=np.float32)
        plan = dataclasses.replace(plan_for(study), sampling_rate=1.0)
        groups = examples.groups if patients is None else patients
        train_round(model, examples, groups, study, plan, round_=1, seed=0, correction=vector)
        return parts.read(parts.shared(model, study)) - before

    return make


def test_a_correction_is_added_after_the_clip_and_the_noise(change):
    assert np.allclose(change(correction=1000.0) - change(), -1000.0, rtol=1e-5)


def test_a_hostile_correction_does_not_let_one_patient_count_for_more(change, examples):
    """The first step: what one patient moves is the same, however large the correction."""
    plain = change() - change(patients=examples.groups[1:])
    pushed = change(correction=64.0) - change(correction=64.0, patients=examples.groups[1:])
    assert np.allclose(pushed, plain, atol=2e-5)


def test_a_pull_of_the_first_step_is_nothing_and_later_ones_shorten_the_way(change):
    prox = {"strategy": "fedprox", "proximal_mu": 0.5}
    assert np.array_equal(change(federation=prox), change())
    longer = {"local_steps": 8, "learning_rate": 1.0}
    pulled, free = change(federation=prox, training=longer), change(training=longer)
    assert np.linalg.norm(pulled) < 0.8 * np.linalg.norm(free)
