"""The plan follows from the study's public values alone."""

from __future__ import annotations

import inspect

import pytest

from common.errors import StudyError
from common.privacy.accounting import epsilon
from common.privacy.plan import plan_for, round_events
from common.study import Study, parse_study


def study_with(**privacy: object) -> Study:
    return parse_study(
        {
            "format": 1,
            "name": "plan",
            "task": {"classes": ["no", "yes"]},
            "input": {"windows": [{"low": -160, "high": 240}], "spacing_mm": 1.0, "size": 64},
            "model": {},
            "training": {"learning_rate": 0.1, "local_steps": 10, "batch_patients": 32},
            "privacy": privacy or {"unit": "off"},
            "federation": {"rounds": 5},
        }
    )


PRIVATE = {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "clip": 0.5, "sampling_rate": 0.1}


def test_no_privacy_has_no_plan():
    assert plan_for(study_with()) is None


def test_the_plan_repeats_the_study_and_adds_only_the_noise():
    plan = plan_for(study_with(**PRIVATE))
    assert plan is not None
    assert (plan.sampling_rate, plan.clip, plan.denominator) == (0.1, 0.5, 32)
    assert (plan.steps_per_round, plan.rounds, plan.epsilon, plan.delta) == (10, 5, 8.0, 1e-3)


def test_all_rounds_together_keep_the_claim_and_are_the_forecast():
    plan = plan_for(study_with(**PRIVATE))
    assert plan is not None
    charged = [event for _ in range(plan.rounds) for event in round_events(plan)]
    assert plan.epsilon * 0.99 < epsilon(charged, plan.delta) <= plan.epsilon
    assert epsilon(charged, plan.delta) == epsilon(round_events(plan, plan.rounds), plan.delta)


def test_the_plan_knows_of_no_cohort():
    assert list(inspect.signature(plan_for).parameters) == ["study"]


def test_a_claim_that_no_noise_fits_names_the_study():
    with pytest.raises(StudyError, match=r"study 'plan', privacy: target epsilon = 1e-05"):
        plan_for(study_with(**{**PRIVATE, "epsilon": 1e-5}))
