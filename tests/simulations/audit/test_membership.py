import numpy as np
import pytest

from common.privacy.plan import PrivacyPlan
from simulations.audit.membership import (
    Attack,
    halves,
    likelihood_ratio,
    membership,
    membership_check,
    small_study,
)

PLAN = PrivacyPlan(
    sigma=4.0, sampling_rate=1.0, clip=1.0, steps_per_round=1, rounds=10, denominator=4, epsilon=4.0, delta=1e-3
)


def attack(shift, seed=0, models=16, patients=40):
    """Confidences that are ``shift`` deviations higher for members; patients differ from one another."""
    rng = np.random.default_rng(seed)
    inside = halves(models, patients)
    return likelihood_ratio(rng.normal(0, 3, patients) + inside * shift + rng.standard_normal(inside.shape), inside)


def test_every_patient_is_a_member_of_half_the_models():
    inside = halves(16, 31)
    assert (inside.sum(0) == 8).all()
    assert set(inside.sum(1)) == {15, 16}


def test_the_attack_finds_members_that_are_remembered_and_no_others():
    assert attack(4.0).auc > 0.95
    assert attack(0.0).auc == pytest.approx(0.5, abs=0.06)


def test_the_rates_are_those_of_the_scores():
    scored = Attack(np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0]), np.array([True, True, False, True, False, False]))
    assert scored.found(0.0) == (2, 0)
    assert scored.found(0.34) == (3, 1)
    assert scored.summary()["tpr"] == {"0.001": 2 / 3, "0.01": 2 / 3, "0.1": 2 / 3}


def test_more_members_found_than_the_claim_permits_fail_the_audit():
    good, bad = attack(0.3), attack(6.0)
    assert membership_check(bad, good, PLAN).passed
    failed = membership_check(bad, bad, PLAN)
    assert not failed.passed
    assert failed.figures["broken"]


def test_models_that_came_to_nothing_count_as_guessing():
    inside = halves(4, 10)
    assert likelihood_ratio(np.zeros(inside.shape), inside).auc == 0.5


def test_the_small_study_keeps_claim_field_of_view_and_steps_within_their_limits(small_study):
    study = small_study(
        input={"size": 224, "spacing_mm": 1.0},
        model={"name": "resnet50"},
        training={"local_steps": 4, "views_per_patient": 8, "batch_patients": 500},
        federation={"rounds": 500},
    )
    small = small_study_for(study)
    assert small.privacy == study.privacy
    assert small.total_steps == 60
    assert (small.input.size, small.input.size * small.input.spacing_mm) == (64, 224.0)
    assert (small.training.views_per_patient, small.training.batch_patients) == (2, 12)
    assert small.without_privacy().privacy.unit == "off"


def small_study_for(study):
    return small_study(study, 24)


@pytest.mark.slow
def test_pictures_learnt_by_heart_give_their_patients_away_and_privacy_hides_them(small_study, people):
    study = small_study(
        task={"classes": ["compression", "burst", "normal"]},
        training={
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "local_steps": 20,
            "batch_patients": 8,
            "augment": False,
        },
        privacy={"epsilon": 0.5, "sampling_rate": 1.0},
    )
    rng = np.random.default_rng(0)
    people.labels[:] = rng.integers(0, 3, len(people.labels))
    bare, private = membership(study, people, people.patients, models=6)
    assert bare.auc > private.auc
    assert bare.auc > 0.7
