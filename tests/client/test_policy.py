"""The site's policy: each check alone, their order, and what noise it puts on counts."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from scipy import stats

from client.policy import (
    DeltaTooLarge,
    EpsilonTooLarge,
    ModelTooLarge,
    NotApproved,
    OutsideHours,
    PrivacyRequired,
    RoundOutOfStudy,
    TooManyRounds,
    TooManySteps,
    check_moment,
    check_study,
    evaluation_event,
    release_evaluation,
)
from client.site import PolicySettings
from client.training.randomness import KEY_BYTES, Keystream
from common.errors import PolicyRefusal, UsageError
from common.models.size import parameter_count
from common.privacy.events import Gaussian
from common.study import Study, parse_study

STRICT = PolicySettings()
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
WIDE = PolicySettings(max_epsilon=10, max_delta=1e-3)


def study_with(epsilon: float = 4.0, delta: float = 1e-5, *, private: bool = True) -> Study:
    privacy = (
        {"unit": "patient", "epsilon": epsilon, "delta": delta, "clip": 1.0, "sampling_rate": 0.1}
        if private
        else {"unit": "off"}
    )
    return parse_study(
        {
            "format": 1,
            "name": "checks",
            "task": {"classes": ["no", "yes"]},
            "input": {"windows": [{"low": -160, "high": 240}], "spacing_mm": 1.0, "size": 64},
            "model": {},
            "training": {"learning_rate": 0.1, "local_steps": 10, "batch_patients": 32},
            "privacy": privacy,
            "federation": {"rounds": 5},
        }
    )


def test_an_approved_study_within_the_limits_may_run_each_of_its_rounds():
    for round_ in range(1, 6):
        check_study(study_with(), STRICT, approved=True, round_=round_)


def test_a_limit_may_be_reached():
    check_study(study_with(8.0, 1e-5), STRICT, approved=True, round_=1)


@pytest.mark.parametrize("approved", [False, None, 0, "yes", 1])
def test_whatever_is_not_plainly_approved_is_refused(approved):
    with pytest.raises(NotApproved, match="not approved"):
        check_study(study_with(), STRICT, approved=approved, round_=1)


def test_no_privacy_is_refused_unless_the_site_allows_it():
    with pytest.raises(PrivacyRequired, match="allow_without_privacy"):
        check_study(study_with(private=False), STRICT, approved=True, round_=1)
    check_study(study_with(private=False), PolicySettings(allow_without_privacy=True), approved=True, round_=1)


def test_allowing_no_privacy_loosens_no_other_limit():
    with pytest.raises(EpsilonTooLarge):
        check_study(study_with(9.0), PolicySettings(allow_without_privacy=True), approved=True, round_=1)


def test_an_epsilon_above_the_sites_is_refused_with_both_numbers():
    with pytest.raises(EpsilonTooLarge, match=r"privacy\.epsilon 8\.1.*max_epsilon is 8\b"):
        check_study(study_with(8.1), STRICT, approved=True, round_=1)


def test_a_delta_above_the_sites_is_refused_with_both_numbers():
    with pytest.raises(DeltaTooLarge, match=r"privacy\.delta 0\.001.*max_delta is 1e-05"):
        check_study(study_with(delta=1e-3), STRICT, approved=True, round_=1)
    check_study(study_with(delta=1e-3), WIDE, approved=True, round_=1)


@pytest.mark.parametrize("round_", [0, -1, 6, 10**9, 1.0, True, "1", None])
def test_a_round_that_the_study_does_not_have_is_refused(round_):
    with pytest.raises(RoundOutOfStudy, match=r"expected a whole number in 1\.\.5"):
        check_study(study_with(), STRICT, approved=True, round_=round_)


def test_the_checks_run_in_their_numbered_order():
    off = study_with(private=False)
    with pytest.raises(NotApproved):
        check_study(off, STRICT, approved=False, round_=99)
    with pytest.raises(PrivacyRequired):
        check_study(off, STRICT, approved=True, round_=99)
    with pytest.raises(EpsilonTooLarge):
        check_study(study_with(9.0, 1e-2), STRICT, approved=True, round_=99)
    with pytest.raises(DeltaTooLarge):
        check_study(study_with(1.0, 1e-2), STRICT, approved=True, round_=99)
    tight = PolicySettings(max_steps=1, max_parameters=1)
    with pytest.raises(RoundOutOfStudy):
        check_study(study_with(), tight, approved=True, round_=99)
    with pytest.raises(TooManySteps):
        check_study(study_with(), tight, approved=True, round_=1)
    with pytest.raises(ModelTooLarge):
        check_study(study_with(), PolicySettings(max_parameters=1), approved=True, round_=1)
    with pytest.raises(TooManyRounds):
        check_moment(PolicySettings(max_rounds_a_day=1, hours="00:00-00:01"), [NOON], NOON)


def test_more_steps_than_the_sites_are_refused_with_both_numbers():
    with pytest.raises(TooManySteps, match=r"trains for 50 steps; policy\.max_steps is 49"):
        check_study(study_with(), PolicySettings(max_steps=49), approved=True, round_=1)
    check_study(study_with(), PolicySettings(max_steps=50), approved=True, round_=1)


def test_a_network_larger_than_the_sites_is_refused_with_both_numbers():
    weights = parameter_count(study_with())
    with pytest.raises(ModelTooLarge, match=rf"{weights} weights; policy\.max_parameters is {weights - 1}"):
        check_study(study_with(), PolicySettings(max_parameters=weights - 1), approved=True, round_=1)
    check_study(study_with(), PolicySettings(max_parameters=weights), approved=True, round_=1)


@pytest.mark.parametrize("begun", [[], [NOON - DAY], [NOON - DAY, NOON - DAY * 3, NOON - DAY / 2]])
def test_a_round_may_begin_while_fewer_than_the_limit_did_in_a_day(begun):
    check_moment(PolicySettings(max_rounds_a_day=2), begun, NOON)


@pytest.mark.parametrize("begun", [[NOON, NOON], [NOON - DAY + timedelta(seconds=1)] * 2, [NOON + DAY] * 3])
def test_as_many_rounds_in_a_day_as_the_limit_refuse_the_next_even_if_they_lie_ahead(begun):
    with pytest.raises(TooManyRounds, match=r"policy\.max_rounds_a_day is 2"):
        check_moment(PolicySettings(max_rounds_a_day=2), begun, NOON)


@pytest.mark.parametrize(
    ("hours", "within", "outside"),
    [
        ("00:00-24:00", ["00:00", "12:00", "23:59"], []),
        ("08:00-17:30", ["08:00", "12:00", "17:29"], ["07:59", "17:30", "00:00"]),
        ("19:00-06:00", ["19:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "18:59"]),
        ("23:59-00:00", ["23:59"], ["00:00", "12:00"]),
    ],
)
def test_a_round_begins_within_the_sites_hours_only(hours, within, outside):
    policy = PolicySettings(hours=hours)
    for clock in within:
        check_moment(policy, [], at(clock))
    for clock in outside:
        with pytest.raises(OutsideHours, match=f"it is {clock}"):
            check_moment(policy, [], at(clock))


def test_the_hours_are_those_of_the_sites_clock_and_not_of_another_zone():
    evening = datetime(2026, 3, 1, 23, 0, tzinfo=timezone(timedelta(hours=5)))  # 18:00 in UTC
    check_moment(PolicySettings(hours="22:00-24:00"), [], evening)
    with pytest.raises(OutsideHours):
        check_moment(PolicySettings(hours="17:00-19:00"), [], evening)


def at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-03-01T{clock}+00:00")


def test_every_refusal_has_a_code_of_its_own_and_exit_code_six():
    kinds = [NotApproved, PrivacyRequired, EpsilonTooLarge, DeltaTooLarge, RoundOutOfStudy]
    kinds += [TooManySteps, ModelTooLarge, TooManyRounds, OutsideHours]
    assert [kind.code.split("-")[1] for kind in kinds] == list("123456789")
    assert {kind.exit_code for kind in kinds} == {PolicyRefusal.exit_code}


def test_by_default_counts_are_noised():
    release = release_evaluation([5.0, 7.0], 1.0, STRICT)
    assert (release.mode, release.event, release.std) == ("noised", Gaussian(10.0), 10.0)
    assert release.counts is not None
    assert not np.array_equal(release.counts, [5.0, 7.0])


def test_withheld_counts_do_not_leave_and_cost_nothing():
    policy = PolicySettings(evaluation="withheld")
    release = release_evaluation([5.0, 7.0], 1.0, policy)
    assert (release.mode, release.counts, release.event) == ("withheld", None, None)
    assert evaluation_event(policy) is None


def test_exact_counts_leave_only_when_the_policy_says_so():
    given = np.array([5.0, 7.0])
    release = release_evaluation(given, 1.0, PolicySettings(evaluation="exact"))
    assert release.counts is not None
    np.testing.assert_array_equal(release.counts, given)
    assert release.counts is not given
    assert (release.mode, release.std, release.event) == ("exact", 0.0, None)


def noise(sigma: float, sensitivity: float, size: int = 20_000) -> np.ndarray:
    policy = PolicySettings(evaluation_sigma=sigma)
    stream = Keystream(bytes(KEY_BYTES))
    counts = release_evaluation(np.full(size, 100.0), sensitivity, policy, stream).counts
    assert counts is not None
    return counts - 100.0


@pytest.mark.parametrize(("sigma", "sensitivity"), [(10.0, 1.0), (2.0, math.sqrt(2)), (0.5, 3.0)])
def test_the_noise_is_gaussian_with_sigma_times_sensitivity(sigma, sensitivity):
    sample = noise(sigma, sensitivity)
    assert stats.kstest(sample, stats.norm(scale=sigma * sensitivity).cdf).pvalue > 1e-3
    assert sample.std() == pytest.approx(sigma * sensitivity, rel=0.03)


@pytest.mark.parametrize("wrong", [0.9, 1.1])
def test_the_same_test_tells_noise_a_tenth_off(wrong):
    sample = noise(10.0, 1.0)
    assert stats.kstest(sample, stats.norm(scale=10.0 * wrong).cdf).pvalue < 1e-3


def test_noised_counts_lie_on_a_grid_a_thousand_times_finer_than_the_noise():
    sample = noise(10.0, 1.0, 1000) + 100.0
    grid = 8.0 / 1024
    np.testing.assert_array_equal(sample / grid, np.round(sample / grid))
    assert len(np.unique(sample)) > 500


def test_no_seed_of_the_experiment_fixes_the_noise():
    drawn = []
    for _ in range(2):
        np.random.seed(1)
        drawn.append(release_evaluation(np.zeros(8), 1.0, STRICT).counts)
    assert not np.array_equal(drawn[0], drawn[1])


@pytest.mark.parametrize("counts", [[math.nan], [math.inf, 1.0], [[1.0]], 3.0])
def test_counts_that_are_no_finite_vector_are_refused(counts):
    with pytest.raises(UsageError, match="counts of shape"):
        release_evaluation(counts, 1.0, STRICT)


@pytest.mark.parametrize("sensitivity", [0.0, -1.0, math.nan, math.inf])
def test_a_sensitivity_that_would_remove_the_noise_is_refused(sensitivity):
    with pytest.raises(UsageError, match="sensitivity"):
        release_evaluation([1.0], sensitivity, STRICT)
