"""Decisions about patients from several views: the private step, local training, and evaluation."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client.training import local
from client.training.evaluate import decide, judge, predict
from client.training.ghost import GhostGradients
from client.training.local import train_round
from client.training.randomness import KEY_BYTES, Keystream
from client.training.views import Views, to_input, together
from common.errors import UsageError
from common.metrics import accuracy
from common.models.weights import initial_model, to_vector
from common.privacy.plan import plan_for

VIEWS = 3
OFF = {"unit": "off"}


def summed(logits, labels):
    return F.cross_entropy(logits, labels, reduction="sum")


@pytest.fixture
def pooling(study_of):
    def make(how, **sections):
        model = {"pooling": how, "trainable": "norm+head", **sections.pop("model", {})}
        training = {"views_per_patient": VIEWS, **sections.pop("training", {})}
        return study_of(model=model, training=training, **sections)

    return make


@pytest.mark.parametrize("trainable", ["all", "norm+head", "head"])
def test_each_patient_is_clipped_as_one_with_all_its_views(pooling, trainable):
    """Against one backward pass a patient, in float64."""
    model = initial_model(pooling("attention", model={"trainable": trainable}), 0).double()
    torch.manual_seed(1)
    inputs, labels = (
        torch.randn(4 * VIEWS, 3, 32, 32, dtype=torch.float64),
        torch.arange(4).repeat_interleave(VIEWS) % 2,
    )
    alone, named = copy.deepcopy(model), {n: p for n, p in model.named_parameters() if p.requires_grad}
    weights = [p for p in alone.parameters() if p.requires_grad]
    gradients = []
    for patient in range(4):
        rows = slice(patient * VIEWS, (patient + 1) * VIEWS)
        loss = summed(alone(inputs[rows][:, None]), labels[rows][:1])
        gradients.append(torch.autograd.grad(loss, weights))
    norms = [torch.cat([g.flatten() for g in one]).norm() for one in gradients]
    clip = float(sorted(norms)[1]) * 1.01  # so that some are clipped and some are not
    GhostGradients(model, pools=True).clipped_sum(inputs.clone(), labels.clone(), VIEWS, clip, summed)
    for index, parameter in enumerate(named.values()):
        expected = sum(one[index] * min(1.0, clip / float(n + 1e-6)) for one, n in zip(gradients, norms, strict=True))
        assert torch.allclose(parameter.grad, expected, rtol=1e-8, atol=1e-12)


def test_nobody_drawn_gives_zeros_by_the_same_path(pooling):
    model = initial_model(pooling("attention"), 0)
    GhostGradients(model, pools=True).clipped_sum(
        torch.zeros(0, 3, 32, 32), torch.zeros(0, dtype=torch.long), VIEWS, 1.0, summed
    )
    assert all(p.grad.eq(0).all() for p in model.parameters() if p.requires_grad)


def test_a_recurrent_head_can_not_be_clipped(pooling):
    model = initial_model(pooling("gru", privacy=OFF), 0)
    with pytest.raises(UsageError, match=r"fc\.read"):
        GhostGradients(model, pools=True)


def test_rows_that_belong_to_no_patient_are_refused(pooling):
    """A network that pools, in a step that was not told so."""
    model = initial_model(pooling("attention", model={"trainable": "head"}), 0).fc
    with pytest.raises((UsageError, RuntimeError)):
        GhostGradients(torch.nn.Sequential(torch.nn.Unflatten(0, (VIEWS, 2)), model)).clipped_sum(
            torch.randn(2 * VIEWS, 512), torch.zeros(2 * VIEWS, dtype=torch.long), VIEWS, 1.0, lambda x, _: x.sum()
        )


@pytest.mark.parametrize("how", ["attention", "gru"])
def test_views_that_are_pooled_come_in_the_order_of_the_slices(pooling, examples, how):
    study = pooling(how, privacy=OFF, training={"augment": False})
    inputs, labels = Views(examples, study, Keystream(bytes(KEY_BYTES))).batch(examples.groups[:2])
    bags, own = together(inputs, labels, VIEWS)
    assert torch.equal(own, torch.from_numpy(examples.labels[[0, VIEWS]]))
    for place, group in enumerate(examples.groups[:2]):
        assert torch.equal(bags[:, place], to_input(examples.pixels(group)))


@pytest.mark.parametrize("how", ["attention", "gru"])
@pytest.mark.parametrize("trainable", ["norm+head", "head"])
def test_a_network_that_pools_learns(pooling, examples, how, trainable):
    training = {"augment": False, "optimizer": "adamw", "learning_rate": 0.01}
    study = pooling(how, privacy=OFF, model={"trainable": trainable}, training=training)
    model = initial_model(study, 0)
    train_round(model, examples, examples.groups, study, None, round_=1, seed=0, steps=25)
    assert accuracy(decide(model, examples, examples.groups, study).counts(8)) == 1.0


def test_one_patient_more_moves_a_pooled_private_sum_by_one_clip_at_most(pooling, examples, monkeypatch):
    study = pooling("attention", training={"local_steps": 1, "learning_rate": 1.0})
    plan = dataclasses.replace(plan_for(study), sigma=0.0, sampling_rate=1.0)
    monkeypatch.setattr(local.Keystream, "secret", lambda: Keystream(bytes(KEY_BYTES)))
    ends = []
    for patients in (examples.groups[1:], examples.groups):
        model = initial_model(study, 0)
        train_round(model, examples, patients, study, plan, round_=1, seed=0)
        ends.append(to_vector(model))
    moved = float(np.linalg.norm(ends[1] - ends[0])) * plan.denominator / plan.clip
    assert 0.01 < moved <= 1 + 1e-4


@pytest.mark.parametrize("how", ["mean", "max", "attention", "gru"])
def test_a_decision_is_what_the_study_says_of_all_views(pooling, examples, how):
    study = pooling(how, privacy=OFF)
    model, group = initial_model(study, 0).eval(), np.arange(5)
    with torch.no_grad():
        each = predict(model, examples, group)
        whole = torch.softmax(model(to_input(examples.pixels(group))[:, None]).double(), 1)[0] if study.pools else None
    expected = {"mean": each.mean(0), "max": each.max(0) / each.max(0).sum()}.get(how, whole)
    assert np.allclose(judge(model, examples, [group], study)[0], expected, atol=1e-6)
