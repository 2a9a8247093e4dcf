import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from client.audit_log import AuditLog
from client.budget import forecast, whole_study_events
from client.ingest.build import ingest
from client.ledger import Ledger
from client.participation import participate, readiness
from client.policy import OutsideHours, TooManyRounds
from client.received import Received
from client.site import load_site
from common.errors import BudgetExceeded, DataError, LedgerError, PolicyRefusal
from common.messages import Request
from common.models.weights import initial_model, to_vector
from common.privacy.accounting import epsilon
from common.privacy.events import Gaussian, SubsampledGaussian
from common.privacy.plan import plan_for


@pytest.fixture
def asked(make_sites, small_study):
    """A site with a cohort, the study it approved, and a request for a round of it."""

    def make(policy=None, approve=True, **sections):
        study = small_study(**sections)
        site = load_site(make_sites(1, **(policy or {})) / "site-1")
        ingest(site, study)
        if approve:
            site.approve(study)
        request = Request(study=study.canonical_json(), round=1, seed=0)
        return site, study, request, Received.whole(initial_model(study, 0), study)

    return make


def test_a_round_is_charged_recorded_and_answered(asked):
    site, study, request, weights = asked()
    answer = participate(site, study, request, weights, training=True)
    assert answer.reply.status == "ok"
    assert answer.update.shape == to_vector(initial_model(study, 0), trainable_only=True).shape
    assert np.isfinite(answer.update).all()
    assert np.abs(answer.update).max() > 0
    ledger = Ledger(site.ledger_file)
    assert ledger.rounds_charged("default", study.digest) == (1,)
    assert 0 < answer.reply.epsilon == ledger.spent("default", study.privacy.delta)
    assert [e.kind for e in ledger.entries()] == ["reserve", "commit", "release"]
    assert [e.kind for e in AuditLog(site.audit_file).read()] == ["round", "release"]


def test_all_rounds_together_cost_what_was_forecast(asked):
    site, study, request, weights = asked()
    for round_ in range(1, study.federation.rounds + 1):
        participate(site, study, request.model_copy(update={"round": round_}), weights, training=True)
    reply = participate(site, study, request, weights, training=False).reply
    assert reply.epsilon == epsilon(whole_study_events(study, site.config.policy), study.privacy.delta)
    assert reply.epsilon <= study.privacy.epsilon


def test_noised_evaluations_are_part_of_the_forecast_and_of_the_charge(asked):
    site, study, request, weights = asked(policy={"evaluation": "noised", "evaluation_sigma": 20.0})
    for round_ in range(1, study.federation.rounds + 1):
        participate(site, study, request.model_copy(update={"round": round_}), weights, training=True)
    reply = participate(site, study, request, weights, training=False).reply
    assert reply.evaluation == "noised"
    assert reply.counts_std > 20
    assert np.frombuffer(reply.counts).min() < 0
    assert reply.epsilon == epsilon(whole_study_events(study, site.config.policy), study.privacy.delta)
    assert reply.epsilon > study.privacy.epsilon * 0.99


@pytest.mark.parametrize("evaluation", ["noised", "withheld", "exact"])
def test_the_forecast_before_approval_is_the_charge_after_the_run(asked, small_study, evaluation):
    """Another study was charged before; every round is run, evaluated when its turn comes, and the final model too."""
    site, study, request, weights = asked(
        policy={"evaluation": evaluation, "evaluation_sigma": 15.0},
        approve=False,
        federation={"rounds": 5},
        evaluation={"every": 2},
    )
    ledger = Ledger(site.ledger_file)
    other = [SubsampledGaussian(3.0, 0.25, 7), Gaussian(15.0)]
    ledger.reserve(cohort="default", study_digest="e" * 64, round_=1, events=other, max_epsilon=100.0, max_delta=1e-3)
    told = forecast(site, study, ledger)
    assert not told.approved
    assert told.evaluations == (3 if evaluation == "noised" else 0)
    site.approve(study)
    readiness(site, study)
    for round_ in range(1, 6):
        participate(site, study, request.model_copy(update={"round": round_}), weights, training=True)
    participate(site, study, request.model_copy(update={"round": 5}), weights, training=False)
    assert ledger.spent("default", 1e-3) == told.after
    assert ledger.spent_by_study("default", study.digest, 1e-3) == told.whole
    again = forecast(site, study, ledger)
    assert again.spent == told.after
    assert again.charges == (6 if evaluation == "noised" else 5)
    assert again.rounds_left < told.rounds_left


def test_withheld_evaluations_leave_nothing(asked):
    site, study, request, weights = asked(policy={"evaluation": "withheld"})
    reply = participate(site, study, request, weights, training=False).reply
    assert (reply.evaluation, reply.counts, reply.epsilon) == ("withheld", b"", 0.0)


def test_an_unapproved_study_is_refused_before_the_ledger_is_opened(asked):
    site, study, request, weights = asked(approve=False)
    with pytest.raises(PolicyRefusal, match="not approved"):
        participate(site, study, request, weights, training=True)
    assert not site.ledger_file.exists()


def test_an_approval_of_one_study_does_not_cover_its_edited_copy(asked):
    site, study, request, weights = asked()
    edited = study.model_copy(update={"training": study.training.model_copy(update={"local_steps": 100})})
    with pytest.raises(PolicyRefusal, match="not approved"):
        participate(site, edited, request, weights, training=True)


@pytest.mark.failure(
    "a budget that a repeated round has used up",
    seen="`refused` with `budget-exceeded`",
    ends="goes on without it",
    ledgers="nothing more",
)
def test_a_round_beyond_the_budget_is_refused_before_patients_are_touched(asked):
    site, study, request, weights = asked(policy={"max_epsilon": 8.1})
    for round_ in (1, 2):
        participate(site, study, request.model_copy(update={"round": round_}), weights, training=True)
    for path in site.cohorts_dir.rglob("*.npy"):
        path.unlink()  # whoever touched the patients now would fail differently
    with pytest.raises(BudgetExceeded):
        participate(site, study, request, weights, training=True)


def test_a_study_that_the_budget_can_t_carry_to_its_end_is_not_started(asked):
    site, study, _, _ = asked(policy={"max_epsilon": 8.1, "evaluation": "noised", "evaluation_sigma": 1.0})
    with pytest.raises(BudgetExceeded, match="max_epsilon"):
        readiness(site, study)


def test_a_study_under_way_is_asked_for_its_next_round_so_that_a_repeated_one_costs_only_the_last(asked):
    site, study, request, weights = asked(policy={"max_epsilon": 8.1}, federation={"rounds": 3})
    for round_ in (1, 1, 2):  # the first is repeated: three rounds are charged, and that was the budget
        readiness(site, study, round_)
        participate(site, study, request.model_copy(update={"round": round_}), weights, training=True)
    with pytest.raises(BudgetExceeded, match="1 more rounds"):
        readiness(site, study, 3)


def test_a_site_that_joins_late_is_asked_for_the_rounds_that_are_left(asked):
    site, study, _, _ = asked(policy={"max_epsilon": 8.1}, federation={"rounds": 3})
    other = [SubsampledGaussian(plan_for(study).sigma, 0.5, 1)]  # as much as one round: three no longer fit, two do
    ledger = Ledger(site.ledger_file)
    ledger.reserve(cohort="default", study_digest="e" * 64, round_=1, events=other, max_epsilon=100.0, max_delta=1e-3)
    with pytest.raises(BudgetExceeded, match="3 more rounds"):
        readiness(site, study, 1)
    readiness(site, study, 2)


def test_a_repeated_round_is_charged_again_with_fresh_noise(asked):
    site, study, request, weights = asked()
    first = participate(site, study, request, weights, training=True)
    second = participate(site, study, request, weights, training=True)
    assert not np.array_equal(first.update, second.update)
    assert Ledger(site.ledger_file).rounds_charged("default", study.digest) == (1, 1)
    assert second.reply.epsilon > first.reply.epsilon


def test_a_crash_in_training_leaves_the_charge(asked, monkeypatch):
    site, study, request, weights = asked()

    def crash(*args, **kwargs):
        raise RuntimeError("power cut")

    monkeypatch.setattr("client.participation.train_round", crash)
    with pytest.raises(RuntimeError):
        participate(site, study, request, weights, training=True)
    assert Ledger(site.ledger_file).rounds_charged("default", study.digest) == (1,)


@pytest.mark.parametrize("spoil", [lambda w: w[:-1], lambda w: np.where(np.arange(w.size) == 5, np.nan, w)])
def test_a_received_model_that_does_not_fit_is_refused_without_a_charge(asked, spoil):
    site, study, request, weights = asked()
    spoilt = dataclasses.replace(weights, shared=spoil(weights.shared).astype(np.float32))
    with pytest.raises(DataError, match="received model"):
        participate(site, study, request, spoilt, training=True)
    assert not site.ledger_file.exists()


def test_a_study_without_privacy_needs_the_sites_word(asked):
    site, study, request, weights = asked(policy={"allow_without_privacy": False}, privacy={"unit": "off"})
    with pytest.raises(PolicyRefusal, match="allow_without_privacy"):
        participate(site, study, request, weights, training=True)


def test_a_round_beyond_the_days_limit_is_refused_before_anything_is_charged(asked):
    site, study, request, weights = asked(policy={"max_rounds_a_day": 2})
    morning = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
    for hours in (0, 1):
        participate(site, study, request, weights, training=True, clock=lambda h=hours: morning + timedelta(hours=h))
    before = Ledger(site.ledger_file).entries()
    with pytest.raises(TooManyRounds, match="2 rounds were begun in the last 24 hours"):
        participate(site, study, request, weights, training=False, clock=lambda: morning + timedelta(hours=23))
    with pytest.raises(TooManyRounds):  # the clock set back gains nothing
        participate(site, study, request, weights, training=True, clock=lambda: morning - timedelta(days=30))
    assert Ledger(site.ledger_file).entries() == before
    later = morning + timedelta(hours=24, minutes=1)
    assert participate(site, study, request, weights, training=True, clock=lambda: later).reply.status == "ok"


def test_outside_its_hours_a_site_trains_nothing_and_charges_nothing(asked):
    site, study, request, weights = asked(policy={"hours": "19:00-06:00"})
    noon = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
    for training in (True, False):
        with pytest.raises(OutsideHours, match=r"it is 12:00; policy.hours is 19:00-06:00"):
            participate(site, study, request, weights, training=training, clock=lambda: noon)
    assert not site.ledger_file.exists()
    readiness(site, study)  # a study is not turned away for the hour at which it asks who is there


def test_a_damaged_audit_log_stops_a_round_before_it_is_charged(asked):
    site, study, request, weights = asked()
    participate(site, study, request, weights, training=True)
    charged = Ledger(site.ledger_file).entries()
    site.audit_file.write_bytes(site.audit_file.read_bytes().replace(b'"round"', b'"other"', 1))
    with pytest.raises(LedgerError, match="was edited"):
        participate(site, study, request, weights, training=True)
    assert Ledger(site.ledger_file).entries() == charged
