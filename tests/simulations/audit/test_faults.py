"""Each fault is planted in the production code; the part of the audit that must see it fails, and passes without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import client.ledger
import client.participation
from client.ingest.build import ingest
from client.ingest.cohort import open_cohort
from client.site import load_site, load_sites
from client.training import dp_step, ghost, local
from client.training.ghost_records import Weights
from client.training.randomness import KEY_BYTES, Keystream
from common.privacy.plan import plan_for
from simulations.audit import account
from simulations.audit.account import account_checks
from simulations.audit.canaries import canary_audit, canary_check
from simulations.audit.draws import draw_checks
from simulations.audit.noise import noise_checks
from simulations.audit.replay import replay_checks

CANARIES = 400


def failed(checks):
    return {check.name for check in checks if not check.passed}


def replay(study, people):
    return failed(replay_checks(study, plan_for(study), people))


def canaries(study):
    return failed([canary_check(canary_audit(study, plan_for(study), CANARIES, np.random.default_rng()))])


def noise(study, people):
    return failed(noise_checks(study, plan_for(study), people))


def draws(study):
    return failed(draw_checks(study, plan_for(study)))


@pytest.fixture
def ledger(make_sites, small_study):
    """The ledger's checks, each time at a new site."""

    def run():
        study = small_study(privacy={"epsilon": 2.0})
        site = load_site(make_sites(1) / "site-1")
        ingest(site, study)
        return failed(account_checks(study, site, open_cohort(site, study)))

    return run


@pytest.mark.slow
def test_without_a_fault_every_part_passes(study, people, ledger):
    assert replay(study, people) | noise(study, people) | draws(study) | canaries(study) | ledger() == set()


@pytest.fixture
def quarter_noise(monkeypatch):
    add_noise = dp_step.add_noise
    monkeypatch.setattr(dp_step, "add_noise", lambda totals, std, *rest: add_noise(totals, std / 4, *rest))


def test_noise_four_times_too_small_is_caught_by_the_canaries(study, quarter_noise):
    assert canaries(study) == {"lower bound on epsilon"}


def test_noise_four_times_too_small_is_caught_by_its_loudness(study, people, quarter_noise):
    assert noise(study, people) == {"loudness"}


def test_noise_a_tenth_too_small_is_caught_by_its_loudness(study, people, monkeypatch):
    add_noise = dp_step.add_noise
    monkeypatch.setattr(dp_step, "add_noise", lambda totals, std, *rest: add_noise(totals, std * 0.9, *rest))
    assert noise(study, people) == {"loudness"}


@pytest.fixture
def no_clip(monkeypatch):
    def everything(squares, clip, *, present):
        return Weights(torch.full_like(squares, float(present)), torch.zeros(0, dtype=torch.int64))

    monkeypatch.setattr(ghost, "clip_weights", everything)


@pytest.mark.slow
def test_a_step_without_clip_is_caught_by_replay(study, people, no_clip):
    assert replay(study, people) == {"distance of neighbours"}


def test_a_step_without_clip_is_caught_by_the_canaries(study, no_clip):
    assert canaries(study) == {"lower bound on epsilon"}


def slices_in_the_step(monkeypatch):
    step = dp_step.PrivateStepper.step

    def sliced(self, drawn):
        step(self, [patient[i : i + 1] for patient in drawn for i in range(len(patient))])

    monkeypatch.setattr(dp_step.PrivateStepper, "step", sliced)


@pytest.mark.slow
def test_slices_counted_as_patients_in_the_step_are_caught_by_replay(study, people, monkeypatch):
    slices_in_the_step(monkeypatch)
    assert "distance of neighbours" in replay(study, people)


def test_slices_counted_as_patients_by_the_cohort_are_caught_at_the_ledger(make_sites, small_study, monkeypatch):
    study = small_study(privacy={"epsilon": 2.0, "sampling_rate": 1.0}, input={"planes": 3})
    sites = load_sites(make_sites(2))
    for site in sites:
        ingest(site, study)
    train_round = client.participation.train_round

    def sliced(model, examples, patients, *rest, **settings):
        train_round(model, examples, [p[i : i + 1] for p in patients for i in range(len(p))], *rest, **settings)

    assert failed(account_checks(study, sites[0], open_cohort(sites[0], study))) == set()
    monkeypatch.setattr(client.participation, "train_round", sliced)
    assert failed(account_checks(study, sites[1], open_cohort(sites[1], study))) == {"unit"}


def known_in_every_round(monkeypatch):
    monkeypatch.setattr(Keystream, "secret", lambda: Keystream(bytes(KEY_BYTES)))


def known_in_every_step(monkeypatch):
    step = dp_step.PrivateStepper.step

    def again(self, drawn):
        self._optimizer._secret = Keystream(bytes(KEY_BYTES))
        step(self, drawn)

    monkeypatch.setattr(dp_step.PrivateStepper, "step", again)


def known_for_every_parameter(monkeypatch):
    add_noise = dp_step.add_noise
    key = bytes(KEY_BYTES)

    def each_alike(totals, std, _stream, divisor):
        for total in totals:
            add_noise([total], std, Keystream(key), divisor)

    monkeypatch.setattr(dp_step, "add_noise", each_alike)


@pytest.mark.parametrize("fault", [known_in_every_round, known_in_every_step, known_for_every_parameter])
def test_a_noise_seed_used_again_is_caught(study, people, monkeypatch, fault):
    fault(monkeypatch)
    assert noise(study, people) == {"freshness"}


class Shuffled:
    """Batches of fixed size from an order that is drawn anew when it is used up."""

    def __init__(self):
        self.order = np.empty(0, dtype=np.intp)

    def __call__(self, patients, rate, stream):
        size = max(1, round(patients * rate))
        if len(self.order) < size or self.order.max() >= patients:
            self.order = stream.sample(patients, patients)
        batch, self.order = self.order[:size], self.order[size:]
        return batch


def test_shuffling_in_place_of_poisson_draws_is_caught(study, monkeypatch):
    monkeypatch.setattr(local, "poisson_draw", Shuffled())
    assert draws(study) == {"neighbours", "law"}


def test_draws_of_fixed_size_are_caught(study, monkeypatch):
    monkeypatch.setattr(local, "poisson_draw", lambda n, rate, stream: np.sort(stream.sample(n, round(n * rate))))
    assert draws(study) == {"neighbours", "law"}


def test_a_rate_a_tenth_too_high_is_caught(study, monkeypatch):
    poisson_draw = local.poisson_draw
    monkeypatch.setattr(local, "poisson_draw", lambda n, rate, stream: poisson_draw(n, rate * 1.1, stream))
    assert draws(study) == {"law"}


def test_a_ledger_that_forgets_what_was_charged_is_caught(ledger, monkeypatch):
    monkeypatch.setattr(client.ledger, "charged", lambda entries, cohort, study=None: [])
    assert ledger() == {"charge", "refusal"}


def test_a_ledger_made_new_in_each_round_is_caught(ledger, monkeypatch):
    participate = account.participate

    def forgetful(site, *rest, **settings):
        for path in site.folder.glob("ledger.*"):
            path.unlink()
        return participate(site, *rest, **settings)

    monkeypatch.setattr(account, "participate", forgetful)
    assert ledger() == {"charge", "refusal"}


def test_a_step_beyond_what_was_charged_is_caught(ledger, monkeypatch):
    train_round = client.participation.train_round

    def twice(*parts, **settings):
        train_round(*parts, **settings)
        train_round(*parts, **settings)

    monkeypatch.setattr(client.participation, "train_round", twice)
    assert ledger() == {"charge"}


@pytest.mark.slow
def test_a_step_that_skips_its_noise_where_nobody_is_drawn_is_caught(study, people, monkeypatch):
    step = dp_step.PrivateStepper.step
    monkeypatch.setattr(dp_step.PrivateStepper, "step", lambda self, drawn: step(self, drawn) if drawn else None)
    assert "control flow" in replay(study, people)
    assert noise(study, people) == {"loudness", "freshness"}


@pytest.mark.slow
def test_noise_for_each_micro_batch_is_caught(study, people, monkeypatch):
    signal = dp_step._Optimizer.signal_skip_step
    monkeypatch.setattr(dp_step._Optimizer, "signal_skip_step", lambda self, do_skip: signal(self, do_skip=False))
    assert "control flow" in replay(study, people)
