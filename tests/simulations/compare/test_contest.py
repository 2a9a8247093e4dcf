"""Trials, budgets and resuming, with a federation that trains nothing and charges what a real one would."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from client.budget import whole_study_events
from client.ingest import open_cohort
from client.ledger import Ledger
from client.site import load_sites
from common.errors import BudgetExceeded, DataError, QuorumError, StudyError, UsageError
from common.models.weights import initial_model, save_weights
from server.results import PrivacySummary, Results, SiteSummary, write_results
from simulations.compare import trials
from simulations.compare.content import Contest
from simulations.compare.contest import Entry, compete


@pytest.fixture
def federations(monkeypatch):
    """Which federations were run, as (folder, names of the sites); ``fail_at`` breaks the n-th off."""
    done = []

    def fake(study, root, sites, folder, base, seed):
        if len(done) == fake.fail_at:
            raise KeyboardInterrupt
        assert [site.name for site in load_sites(root)] == [site.name for site in sites]
        done.append((folder.root.name, [site.name for site in sites]))
        folder.prepare(study, base)
        for site in sites if study.privacy.on else ():
            policy = site.config.policy
            Ledger(site.ledger_file).reserve(
                cohort=site.config.cohort,
                study_digest=study.digest,
                round_=1,
                events=whole_study_events(study, policy),
                max_epsilon=policy.max_epsilon,
                max_delta=policy.max_delta,
            )
        digest = save_weights(folder.model_file, initial_model(study, len(done)), {})
        results = Results(
            study_name=study.name,
            study_digest=study.digest,
            study=study.model_dump(mode="json"),
            started="2026-01-01T00:00:00Z",
            finished="2026-01-01T00:01:00Z",
            seed=seed,
            versions={},
            outcome="finished",
            model_sha256=digest,
            sites=tuple(SiteSummary(site=s.name, rounds_ok=1, rounds_missed=0, evaluation="exact") for s in sites),
            rounds=(),
            privacy=PrivacySummary(on=False),
        )
        write_results(results, folder.results_file)

    fake.fail_at = None
    monkeypatch.setattr(trials, "federate", fake)
    return SimpleNamespace(done=done, fake=fake)


@pytest.fixture
def plain(small_study):
    return small_study(privacy={"unit": "off"}, evaluation={"holdout": 0.2})


def test_a_cross_validation_tests_every_patient_once(make_sites, plain, federations, tmp_path):
    root, out = make_sites(2, patients=8), tmp_path / "out"
    found = compete([Entry(plain, tmp_path)], root, out, folds=3)
    (arm,) = found.arms
    assert arm.metrics.cases == 16
    assert {site: metrics.cases for site, metrics in arm.per_site.items()} == {"site-1": 8, "site-2": 8}
    assert sum(fold.cases for fold in arm.folds) == 16
    assert [name for name, _ in federations.done] == ["fold-1", "fold-2", "fold-3"]
    assert len({open_cohort(s, plain.of_fold(f, 3)).folder for s in load_sites(root) for f in (1, 2, 3)}) == 2
    assert found.candidates[0].digests == tuple(plain.of_fold(f, 3).digest for f in (1, 2, 3))
    assert Contest.model_validate_json((out / "comparison.json").read_text()) == found
    assert "<html" in (out / "comparison.html").read_text()


def test_what_is_complete_is_not_run_again_and_what_was_broken_off_is(make_sites, plain, federations, tmp_path):
    root, out = make_sites(2, patients=8), tmp_path / "out"
    federations.fake.fail_at = 2
    with pytest.raises(KeyboardInterrupt):
        compete([Entry(plain, tmp_path)], root, out, folds=3)
    assert not (out / "comparison.json").exists()
    federations.fake.fail_at = None
    first = compete([Entry(plain, tmp_path)], root, out, folds=3)
    assert [name for name, _ in federations.done] == ["fold-1", "fold-2", "fold-3"]
    again = compete([Entry(plain, tmp_path)], root, out, folds=3)
    assert len(federations.done) == 3
    assert again.arms == first.arms
    (out / "fold-2" / "run" / "judged.json").write_text("{")
    compete([Entry(plain, tmp_path)], root, out, folds=3)
    assert [name for name, _ in federations.done[3:]] == ["fold-2"]


def test_another_seed_or_other_patients_start_anew(make_sites, plain, federations, tmp_path):
    root, out = make_sites(2, patients=8), tmp_path / "out"
    compete([Entry(plain, tmp_path)], root, out, folds=2)
    compete([Entry(plain, tmp_path)], root, out, folds=2, seed=1)
    assert len(federations.done) == 4
    labels = root / "site-1" / "labels.csv"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[:-1]))
    found = compete([Entry(plain, tmp_path)], root, out, folds=2, seed=1)
    assert len(federations.done) == 6
    assert found.arms[0].metrics.cases == 15


def test_leaving_each_hospital_out_trains_on_the_others_and_tests_on_all_its_patients(
    make_sites, plain, federations, tmp_path
):
    root, out = make_sites(3, patients=6), tmp_path / "out"
    study = plain.model_copy(update={"evaluation": plain.evaluation.model_copy(update={"holdout": 0.4})})
    found = compete([Entry(study, tmp_path)], root, out, leave_one_out=True)
    names = {"site-1", "site-2", "site-3"}
    assert federations.done == [
        ("out", sorted(names)),
        *((f"without-{name}", sorted(names - {name})) for name in sorted(names)),
    ]
    together, unseen = found.arms
    assert (together.kind, unseen.kind) == ("federated", "unseen")
    assert unseen.metrics.cases == together.metrics.cases < 18
    assert {site: metrics.cases for site, metrics in unseen.everybody.items()} == dict.fromkeys(names, 6)
    (duel,) = found.duels
    assert duel.cases == together.metrics.cases
    assert set(duel.tests) == {"mcnemar", "delong"}
    assert "A hospital that took no part" in (out / "comparison.html").read_text()


def test_studies_are_judged_on_the_same_patients_and_what_differs_is_named(make_sites, plain, federations, tmp_path):
    root, out = make_sites(2, patients=6), tmp_path / "out"
    other = plain.model_copy(
        update={"name": "other", "training": plain.training.model_copy(update={"learning_rate": 0.5})}
    )
    found = compete([Entry(plain, tmp_path), Entry(other, tmp_path)], root, out, folds=2)
    assert [name for name, _ in federations.done] == ["fold-1", "fold-2"] * 2
    assert {path.name for path in out.iterdir()} == {"small", "other", "comparison.json", "comparison.html"}
    assert [(one.setting, one.values) for one in found.differences] == [("training.learning_rate", (0.05, 0.5))]
    (duel,) = found.duels
    assert (duel.first, duel.second, duel.cases) == (("small", "federated"), ("other", "federated"), 12)


@pytest.mark.parametrize(
    ("changes", "folds", "kind", "words"),
    [
        ({"name": "small"}, None, UsageError, "two studies are named 'small'"),
        ({"evaluation": {"holdout": 0.4, "split_seed": 3}}, 2, StudyError, "differ in evaluation.split_seed: 0 and 3"),
        ({"evaluation": {"holdout": 0.4}}, None, StudyError, "differ in evaluation.holdout: 0.2 and 0.4"),
        ({"task": {"classes": ["bright", "dark"]}}, 2, StudyError, "differ in task.classes"),
    ],
)
def test_studies_that_can_not_be_compared_are_refused(small_study, tmp_path, changes, folds, kind, words):
    first = small_study(evaluation={"holdout": 0.2})
    second = small_study(**{"name": "other", "evaluation": {"holdout": 0.2}, **changes})
    with pytest.raises(kind, match=re.escape(words)):
        compete([Entry(first, tmp_path), Entry(second, tmp_path)], tmp_path / "none", tmp_path / "out", folds=folds)


def test_a_budget_that_all_folds_would_overrun_is_refused_before_any_is_trained(
    make_sites, small_study, federations, tmp_path
):
    study, out = small_study(evaluation={"holdout": 0.2}), tmp_path / "out"
    root = make_sites(2, patients=8, max_epsilon=12.0)
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=r"^3 trainings would bring site 'site-1' to epsilon 1\d"):
            compete([Entry(study, tmp_path)], root, out, folds=3)
    assert federations.done == []
    assert not (root / "site-1" / "ledger.sqlite").exists()


def test_every_fold_is_charged_and_only_what_is_left_to_do_is_asked_for(make_sites, small_study, federations, tmp_path):
    study, out = small_study(evaluation={"holdout": 0.2}), tmp_path / "out"
    root = make_sites(2, patients=8, max_epsilon=13.0)
    found = compete([Entry(study, tmp_path)], root, out, folds=2)
    site = load_sites(root)[0]
    ledger = Ledger(site.ledger_file)
    assert len(ledger.entries()) == 2
    assert found.candidates[0].epsilon == pytest.approx(ledger.spent("default", 1e-3))
    assert 8 < found.candidates[0].epsilon < 13
    compete([Entry(study, tmp_path)], root, out, folds=2)  # nothing is left to charge
    with pytest.raises(BudgetExceeded, match="2 trainings"):
        compete([Entry(study, tmp_path)], root, out, folds=2, seed=1)


def test_leaving_out_is_charged_at_the_hospitals_that_train(make_sites, small_study, federations, tmp_path):
    study, root = small_study(), make_sites(3, patients=6, max_epsilon=12.0)
    with pytest.raises(BudgetExceeded, match="3 trainings would bring site 'site-1'"):
        compete([Entry(study, tmp_path)], root, tmp_path / "out", leave_one_out=True)
    assert federations.done == []


def test_sites_and_patients_must_suffice_before_anything_is_trained(make_sites, plain, federations, tmp_path):
    root = make_sites(2, patients=2)
    entry = [Entry(plain, tmp_path)]
    with pytest.raises(UsageError, match=r"--leave-one-out would train on 1 of 2 sites; federation.minimum_sites is 2"):
        compete(entry, root, tmp_path / "out", leave_one_out=True)
    more = plain.model_copy(update={"federation": plain.federation.model_copy(update={"minimum_sites": 3})})
    with pytest.raises(QuorumError):
        compete([Entry(more, tmp_path)], root, tmp_path / "out", folds=2)
    with pytest.raises(
        DataError, match=r"(no patient to train on in|no patient is held out in) 'small', fold \d of 20"
    ):
        compete(entry, root, tmp_path / "out", folds=20)
    assert federations.done == []


def test_nothing_of_a_single_patient_is_in_what_is_written_outside_the_sites(make_sites, plain, federations, tmp_path):
    root, out = make_sites(2, patients=8), tmp_path / "out"
    compete([Entry(plain, tmp_path)], root, out, folds=2)
    written = b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file() and p.suffix != ".safetensors")
    for site in load_sites(root):
        cohort = open_cohort(site, plain.of_fold(1, 2))
        for pseudonym in cohort.patients["pseudonym"]:
            assert pseudonym.tobytes() not in written
            assert pseudonym.tobytes().hex().encode() not in written
    assert b"S1P" not in written
    assert set(json.loads((out / "fold-1" / "run" / "judged.json").read_text())) == {
        "study",
        "seed",
        "sites",
        "data",
        "judgements",
    }
