"""What leaves of an evaluation by subgroup: only what study, policy and ingest all have, and small bands not exactly."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from client import participation
from client.participation import released_groups
from client.site import PolicySettings
from client.training.evaluate import Decisions
from common.metrics import Counts
from common.subgroups import BANDS


def cohort_of(**codes):
    """A cohort whose patients, half of them held out, have these bands."""
    count = len(next(iter(codes.values())))
    table = np.zeros(2 * count, dtype=[(name, "u1") for name in codes])
    for name, values in codes.items():
        table[name][::2] = values
    return SimpleNamespace(subgroups=table, held_out=np.arange(2 * count) % 2 == 0, holdout_patients=lambda: None)


def decisions_of(count):
    labels = np.arange(count) % 2
    said = np.eye(2)[np.where(np.arange(count) % 3 == 0, 1 - labels, labels)]
    return Decisions(np.arange(count), labels, said)


@pytest.fixture
def study(small_study):
    return small_study(evaluation={"holdout": 0.4, "subgroups": ["age", "sex"]})


def groups(study, codes, **policy):
    count = len(next(iter(codes.values())))
    settings = PolicySettings(subgroups=("age", "sex", "vendor"), **policy)
    return released_groups(decisions_of(count), cohort_of(**codes), study, settings)


SEX = [1] * 14 + [2] * 12


def test_a_band_holds_its_patients_alone(study):
    found = groups(study, {"sex": SEX}, evaluation="exact")["sex"]
    decisions = decisions_of(26)
    for code in range(4):
        mine = np.array(SEX) == code
        expected = Counts.of(decisions.labels[mine], decisions.probabilities[mine], 8).confusion
        assert np.array_equal(found[code], expected)


def test_only_what_the_study_asks_the_policy_permits_and_ingest_kept_leaves(study, small_study):
    assert set(groups(study, {"sex": SEX, "vendor": SEX}, evaluation="noised")) == {"sex"}
    assert groups(small_study(), {"sex": SEX}, evaluation="noised") == {}
    decisions, cohort = decisions_of(26), cohort_of(sex=SEX, age=SEX)
    assert released_groups(decisions, cohort, study, PolicySettings(evaluation="exact")) == {}
    cohort.subgroups = None
    assert released_groups(decisions, cohort, study, PolicySettings(evaluation="exact", subgroups=("sex",))) == {}


def test_exactly_no_band_below_the_minimum_leaves_nor_can_be_told_from_the_rest(study):
    small = groups(study, {"sex": [1] * 15 + [2] * 6 + [3] * 5}, evaluation="exact")["sex"]
    assert small.sum(axis=(1, 2)).tolist() == [11, 15, 0, 0]  # two small ones together are no longer small
    assert groups(study, {"sex": [1] * 20 + [2] * 6}, evaluation="exact") == {}  # the total less 20 would be the six
    assert set(groups(study, {"sex": [1] * 20 + [2] * 6}, evaluation="exact", subgroup_minimum=5)) == {"sex"}


def test_noised_what_leaves_does_not_hang_on_who_is_there(study):
    for codes in (SEX, [1] * 26, [0] * 25 + [2]):
        assert set(groups(study, {"sex": codes, "age": codes}, evaluation="noised")) == {"sex", "age"}


def test_one_patient_more_changes_the_release_by_its_sensitivity_at_most(study, monkeypatch, tmp_path):
    """Of the whole vector of counts, in L2 norm; and the noise is scaled to that."""
    seen = []
    release = participation.release_evaluation
    monkeypatch.setattr(participation, "release_evaluation", lambda v, s, p: seen.append((v, s)) or release(v, s, p))
    site = SimpleNamespace(config=SimpleNamespace(policy=PolicySettings(subgroups=("age", "sex"))))
    for count in (25, 26):
        monkeypatch.setattr(participation, "decide", lambda *_, n=count: decisions_of(n))
        cohort = cohort_of(sex=SEX[:count], age=SEX[:count])
        found = participation._evaluate(site, study, None, cohort, final=True)
    (before, _), (after, sensitivity) = seen
    assert sensitivity == pytest.approx(math.sqrt(1 + 2 + 2))
    assert np.linalg.norm(after - before) == pytest.approx(sensitivity)  # and it is reached
    assert found.std == pytest.approx(10.0 * sensitivity)
    assert found.subgroups == ("age", "sex")
    bands = sum(len(BANDS[name]) for name in found.subgroups)
    assert len(after) == 4 + 2 * 2 * study.evaluation.score_bins + 4 * bands


def test_rounds_before_the_end_are_not_broken_down(study, monkeypatch):
    site = SimpleNamespace(config=SimpleNamespace(policy=PolicySettings(subgroups=("age", "sex"))))
    monkeypatch.setattr(participation, "decide", lambda *_: decisions_of(26))
    assert participation._evaluate(site, study, None, cohort_of(sex=SEX, age=SEX), final=False).subgroups == ()
