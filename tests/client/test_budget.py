"""What is spent, by whom, and what a study would cost; compared with runs in test_participation.py."""

from __future__ import annotations

import pytest

from client.budget import MOST_ROUNDS, forecast, spending, study_charges, whole_study_events
from client.ledger import Ledger
from client.site import PolicySettings, SiteConfig, create_site
from common.errors import BudgetExceeded
from common.privacy.accounting import epsilon, epsilon_rdp
from common.privacy.events import Gaussian, SubsampledGaussian
from common.privacy.plan import plan_for

DELTA = 1e-3
ONE = [Gaussian(20.0)]


@pytest.fixture
def site(tmp_path):
    def make(**policy):
        settings = PolicySettings(**{"max_delta": DELTA, "evaluation": "withheld", **policy})
        return create_site(tmp_path / "site", SiteConfig(name="st-example", simulated=True, policy=settings))

    return make


def spend(site, study="a" * 64, *, cohort="default", rounds=(1,), events=ONE, budget=1000.0):
    ledger = Ledger(site.ledger_file)
    for round_ in rounds:
        ledger.reserve(
            cohort=cohort, study_digest=study, round_=round_, events=list(events), max_epsilon=budget, max_delta=DELTA
        )
    return ledger


def test_a_study_is_forecast_as_training_and_evaluations_on_top_of_what_is_spent(site, small_study):
    study, here = small_study(), site(evaluation="noised", evaluation_sigma=20.0, max_epsilon=20.0)
    ledger = spend(here, rounds=(1, 2))
    told = forecast(here, study, ledger)
    plan = plan_for(study)
    training, counts = SubsampledGaussian(plan.sigma, 0.5, 2), Gaussian(20.0, 2)
    assert told.spent == epsilon([Gaussian(20.0, 2)], DELTA)
    assert told.training == epsilon([training], DELTA)
    assert told.training == pytest.approx(8.0, rel=0.01)
    assert told.whole == epsilon([training, counts], DELTA)
    assert told.after == epsilon([training, counts, Gaussian(20.0, 2)], DELTA) < told.after_rdp
    assert (told.evaluations, told.rounds, told.charges) == (2, 2, 0)
    assert told.fits
    assert not told.approved
    assert ledger.verify() == 2


def test_folds_of_a_study_are_charged_one_by_one_on_the_same_patients(site, small_study):
    study, here = small_study(evaluation={"holdout": 0.2}), site()
    assert forecast(here, study, None).folds == 1
    assert forecast(here, study, None).after_folds == forecast(here, study, None).after
    folds = [study.of_fold(fold, 3) for fold in (1, 2, 3)]
    told = forecast(here, folds[0], None)
    assert told.folds == 3
    for fold in folds:
        ledger = spend(here, fold.digest, events=whole_study_events(fold, here.config.policy))
    assert spending(here, ledger.entries())[0].epsilon == pytest.approx(told.after_folds)
    assert told.after_folds > told.after


@pytest.mark.parametrize(("mode", "evaluations"), [("noised", 2), ("withheld", 0), ("exact", 0)])
def test_evaluations_cost_what_the_policy_says(site, small_study, mode, evaluations):
    told = forecast(site(evaluation=mode), small_study(), None)
    assert told.evaluations == evaluations
    assert (told.whole > told.training) == (mode == "noised")
    assert told.spent == 0


def test_evaluations_are_as_many_as_the_schedule_has_and_one_at_the_end(small_study):
    policy = PolicySettings(evaluation="noised")
    study = small_study(federation={"rounds": 10}, evaluation={"every": 4})
    assert study_charges(study, policy, 0) == []
    for rounds, expected in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (10, 3)):
        training, counts = study_charges(study, policy, rounds)
        assert (training.steps, counts.count) == (rounds, expected)
    assert whole_study_events(study, policy) == study_charges(study, policy, 10)


@pytest.mark.parametrize("budget", [0.5, 3.0, 8.0, 12.0])
def test_the_rounds_left_fit_and_one_more_does_not(site, small_study, budget):
    study, here = small_study(federation={"rounds": 6}), site(max_epsilon=budget, evaluation="noised")
    ledger = spend(here, budget=budget)
    told = forecast(here, study, ledger)
    before = [Gaussian(20.0)]
    cost = [
        epsilon([*before, *study_charges(study, here.config.policy, n)], DELTA)
        for n in (told.rounds_left, told.rounds_left + 1)
    ]
    assert cost[0] <= budget < cost[1]
    assert told.fits == (told.rounds_left >= 6)


def test_a_budget_that_is_spent_has_no_round_left(site, small_study):
    here = site(max_epsilon=1.0)
    ledger = spend(here, events=[Gaussian(1.0)])
    told = forecast(here, small_study(), ledger)
    assert (told.rounds_left, told.fits) == (0, False)


def test_rounds_that_cost_next_to_nothing_are_counted_up_to_the_most_a_study_can_have(site, small_study):
    here = site(evaluation="noised", evaluation_sigma=1e6, allow_without_privacy=True)
    assert forecast(here, small_study(privacy={"unit": "off"}), None).rounds_left == MOST_ROUNDS


def test_a_study_that_charges_nothing_has_no_count_of_rounds(site, small_study):
    told = forecast(site(allow_without_privacy=True), small_study(privacy={"unit": "off"}), None)
    assert told.rounds_left is None
    assert (told.whole, told.fits) == (0.0, True)


def test_what_the_policy_would_refuse_is_said_though_the_budget_has_room(site, small_study):
    here = site(max_epsilon=100.0, max_delta=1e-5)
    told = forecast(here, small_study(), None)
    assert told.fits
    assert "max_delta" in told.refusal
    assert "allow_without_privacy" in forecast(here, small_study(privacy={"unit": "off"}), None).refusal


def test_spending_names_each_study_of_each_cohort_the_present_one_first(site, small_study):
    here, study = site(), small_study()
    here.approve(study)
    spend(here, study.digest, rounds=(1, 2, 2), events=[SubsampledGaussian(2.0, 0.5, 3), Gaussian(20.0)])
    spend(here, "b" * 64)
    ledger = spend(here, "b" * 64, cohort="chest", events=[Gaussian(5.0, 2)])
    with pytest.raises(BudgetExceeded):
        spend(here, "c" * 64, budget=0.1)
    present, chest = spending(here, ledger.entries())
    assert (present.cohort, chest.cohort) == ("default", "chest")
    first, other, refused = present.studies
    assert (first.name, first.rounds, first.steps, first.evaluations) == ("small", (1, 2, 2), 9, 3)
    assert (other.name, other.digest, other.evaluations) == ("", "b" * 64, 1)
    assert (refused.rounds, refused.refused, refused.epsilon) == ((), 1, 0.0)
    assert first.epsilon == ledger.spent_by_study("default", study.digest, DELTA)
    assert present.epsilon == ledger.spent("default", DELTA) < first.epsilon + other.epsilon
    assert present.epsilon_rdp > present.epsilon
    assert chest.epsilon == epsilon([Gaussian(5.0, 2)], DELTA)
    assert chest.epsilon_rdp == epsilon_rdp([Gaussian(5.0, 2)], DELTA)


def test_nothing_spent_is_a_present_cohort_without_studies(site):
    (present,) = spending(site(), ())
    assert (present.cohort, present.epsilon, present.studies) == ("default", 0.0, ())


@pytest.mark.parametrize("content", ["", "{}", "\xff"])
def test_an_approval_that_can_not_be_read_gives_no_name(site, small_study, content):
    here, study = site(), small_study()
    here.approve(study)
    (here.folder / "approved" / f"{study.digest}.json").write_text(content, encoding="latin-1")
    ledger = spend(here, study.digest)
    assert spending(here, ledger.entries())[0].studies[0].name == ""
