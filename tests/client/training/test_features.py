import dataclasses

import numpy as np
import pytest
import torch

from client.training import features, local
from client.training.features import Features, head_alone
from client.training.local import train_round
from client.training.randomness import KEY_BYTES, Keystream
from client.training.views import to_input
from common.models.weights import initial_model, to_vector
from common.privacy.plan import plan_for

HEAD_ALONE = {"model": {"trainable": "head"}, "training": {"augment": False, "views_per_patient": 2}}


@pytest.fixture
def made(monkeypatch):
    """The examples that went through the body of the network, in turn."""
    seen = []
    make = Features._made
    monkeypatch.setattr(Features, "_made", lambda self, indices: seen.extend(indices.tolist()) or make(self, indices))
    return seen


def test_features_are_what_the_head_is_given(study_of, examples):
    model = initial_model(study_of(**HEAD_ALONE), 0)
    given = []
    model.fc.register_forward_hook(lambda _module, inputs, _output: given.append(inputs[0]))
    chosen = np.array([5, 2, 5, 0])
    with torch.no_grad():
        model(to_input(examples.pixels(chosen)))
    assert torch.allclose(Features(model, examples)(chosen), given[0], atol=1e-5)


@pytest.mark.parametrize("privacy", [{}, {"unit": "off"}])
def test_a_round_ends_where_it_would_without_keeping_features(study_of, examples, monkeypatch, privacy):
    study = study_of(privacy=privacy, **HEAD_ALONE)
    plan = plan_for(study)
    plan = plan and dataclasses.replace(plan, sigma=0.0)
    monkeypatch.setattr(local.Keystream, "secret", lambda: Keystream(bytes(KEY_BYTES)))

    def trained():
        model = initial_model(study, 0)
        train_round(model, examples, examples.groups, study, plan, round_=1, seed=0)
        return to_vector(model, trainable_only=True)

    kept = trained()
    monkeypatch.setattr(local, "head_alone", lambda *_: False)
    assert np.allclose(kept, trained(), atol=1e-5)
    assert not np.allclose(kept, to_vector(initial_model(study, 0), trainable_only=True), atol=1e-3)


def test_an_example_goes_through_the_body_once_a_round(study_of, examples, made):
    study = study_of(privacy={"unit": "off"}, **HEAD_ALONE)
    train_round(initial_model(study, 0), examples, examples.groups, study, None, round_=1, seed=0, steps=20)
    assert sorted(made) == sorted(set(made))


def test_beyond_their_memory_features_are_made_anew(study_of, examples, made, monkeypatch):
    monkeypatch.setattr(features, "KEPT_BYTES", 0)
    find = Features(initial_model(study_of(**HEAD_ALONE), 0), examples)
    assert torch.equal(find(np.array([1, 2])), find(np.array([1, 2])))
    assert made == [1, 2, 1, 2]


def test_nobody_has_no_features(study_of, examples):
    assert Features(initial_model(study_of(**HEAD_ALONE), 0), examples)(np.array([], dtype=int)).shape == (0, 512)


@pytest.mark.parametrize(
    ("model", "augment", "expected"),
    [("head", False, True), ("head", True, False), ("norm+head", False, False), ("all", False, False)],
)
def test_features_are_kept_only_where_they_stay_the_same(study_of, model, augment, expected):
    study = study_of(model={"trainable": model}, training={"augment": augment})
    assert head_alone(initial_model(study, 0), study) is expected
