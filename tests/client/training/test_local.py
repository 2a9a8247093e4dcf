import dataclasses

import numpy as np
import pytest

from client.training import local
from client.training.evaluate import evaluate
from client.training.local import train_round
from client.training.randomness import KEY_BYTES, Keystream
from client.training.views import Views
from common.metrics import accuracy
from common.models.weights import initial_model, to_vector
from common.privacy.plan import plan_for


def trained(study, examples, seed=0, rounds=1, steps=None):
    model = initial_model(study, 0)
    for round_ in range(1, rounds + 1):
        train_round(model, examples, examples.groups, study, plan_for(study), round_=round_, seed=seed, steps=steps)
    return model


def test_without_privacy_the_seed_fixes_the_result(study_of, examples):
    study = study_of(privacy={"unit": "off"})
    one, two = (to_vector(trained(study, examples, seed=4)) for _ in range(2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, to_vector(trained(study, examples, seed=5)))


def test_with_privacy_two_runs_of_one_seed_differ(study_of, examples):
    study = study_of()
    one, two = (to_vector(trained(study, examples, seed=4)) for _ in range(2))
    assert not np.array_equal(one, two)


def test_with_privacy_the_seed_does_not_fix_the_views_either(study_of, examples):
    study = study_of()
    plan = dataclasses.replace(plan_for(study), sigma=0.0, sampling_rate=1.0)  # only the views are left to chance
    models = [initial_model(study, 0) for _ in range(2)]
    for model in models:
        train_round(model, examples, examples.groups, study, plan, round_=1, seed=4)
    assert not np.array_equal(*(to_vector(model) for model in models))


@pytest.fixture
def one_more(study_of, examples, monkeypatch):
    """How far one patient more, who comes first, moves the noiseless sum of a step under one known secret."""
    study = study_of(training={"views_per_patient": 2, "local_steps": 1, "learning_rate": 1.0})
    plan = dataclasses.replace(plan_for(study), sigma=0.0, sampling_rate=1.0)
    monkeypatch.setattr(local.Keystream, "secret", lambda: Keystream(bytes(KEY_BYTES)))

    def distance():
        models = [initial_model(study, 0) for _ in range(2)]
        for model, patients in zip(models, (examples.groups[1:], examples.groups), strict=True):
            train_round(model, examples, patients, study, plan, round_=1, seed=0)
        return np.linalg.norm(to_vector(models[1]) - to_vector(models[0])) * plan.denominator / plan.clip

    return distance


def test_one_patient_more_moves_a_step_by_one_clip_even_if_the_secret_is_known(one_more):
    assert 0.9 < one_more() <= 1 + 1e-3


def test_one_stream_for_all_patients_would_let_one_more_move_a_step_by_several_clips(one_more, monkeypatch):
    monkeypatch.setattr(Views, "_stream_of", lambda views, patient: views._stream)
    assert one_more() > 1.2


def test_training_learns_what_can_be_learned(study_of, examples):
    study = study_of(
        privacy={"unit": "off"},
        training={"optimizer": "adamw", "learning_rate": 1e-3, "batch_patients": 8, "augment": False},
    )
    model = trained(study, examples, steps=25)
    assert accuracy(evaluate(model, examples, examples.groups, study)) == 1.0


def test_frozen_weights_do_not_move(study_of, examples):
    study = study_of(model={"trainable": "head"})
    model = trained(study, examples)
    start = initial_model(study, 0)
    for (name, after), (_, before) in zip(model.named_parameters(), start.named_parameters(), strict=True):
        assert np.array_equal(after.detach(), before.detach()) is not name.startswith("fc."), name


def test_the_cosine_falls_from_the_rate_towards_zero(study_of):
    study = study_of(training={"schedule": "cosine"}, federation={"rounds": 10})
    rates = [study.learning_rate(r) for r in range(1, 11)]
    assert rates[0] == 0.05
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.003
    assert study_of().learning_rate(2) == 0.05


def test_a_site_without_training_patients_is_named(study_of, examples):
    study = study_of()
    with pytest.raises(ValueError, match="no training patients"):
        train_round(initial_model(study, 0), examples, [], study, plan_for(study), round_=1, seed=0)


def test_views_of_a_patient_are_averaged_into_one_case(study_of, examples):
    study = study_of()
    model = initial_model(study, 0)
    counts = evaluate(model, examples, examples.groups, study)
    assert counts.confusion.sum() == examples.patients


def test_the_slices_of_a_patient_share_its_weight(study_of, examples):
    study = study_of(task={"label_level": "slice"})
    model = initial_model(study, 0)
    counts = evaluate(model, examples, examples.groups, study)
    assert counts.confusion.sum() == pytest.approx(examples.patients)
    assert counts.scores[0].sum() == pytest.approx(examples.patients)


def test_nobody_held_out_gives_zero_counts(study_of, examples):
    study = study_of()
    assert evaluate(initial_model(study, 0), examples, [], study).confusion.sum() == 0
