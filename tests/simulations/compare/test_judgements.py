from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from client.ingest import ingest, open_cohort
from client.site import load_sites
from client.training.evaluate import evaluate
from common.errors import DataError
from common.models.weights import initial_model
from simulations.compare.judgements import Judgement, Pair, is_saved


def test_a_pair_counts_whom_each_model_judges_better_and_adds_up(judged):
    first = judged("abcde", [0, 1, 0, 1, 1], [0, 1, 1, 1, 0])
    second = judged("abcde", [0, 1, 0, 1, 1], [0, 0, 0, 0, 0])
    pair = Pair.of(first, second)
    assert (pair.cases, pair.better, pair.worse, pair.first, pair.second) == (5, 2, 1, 3.0, 2.0)
    assert pair.difference == pytest.approx(0.2)
    assert pair.whole
    both = pair + Pair.of(second, first)
    assert (both.cases, both.better, both.worse, both.difference) == (10, 3, 3, 0.0)
    assert Pair().difference is None


def test_patients_are_matched_by_pseudonym_and_only_those_that_both_held_out(judged):
    first = judged("abc", [0, 0, 0], [0, 0, 0])
    second = judged("cbx", [0, 0, 0], [1, 1, 0], held_out=[True, False, True])
    pair = Pair.of(first, second)
    assert (pair.cases, pair.better, pair.worse) == (1, 1, 0)


def test_a_patient_of_several_labels_is_one_case_that_a_model_judges_more_often_right(judged):
    first = judged("aaab", [0, 0, 0, 1], [0, 0, 1, 1])
    second = judged("aaab", [0, 0, 0, 1], [0, 1, 1, 1])
    pair = Pair.of(first, second)
    assert (pair.cases, pair.better, pair.worse) == (2, 1, 0)
    assert pair.difference == pytest.approx((2 / 3 - 1 / 3) / 2)
    assert not pair.whole


def test_counts_are_of_held_out_patients_unless_everybody_is_asked_for(judged):
    said = judged("abc", [0, 1, 1], [0, 1, 0], held_out=[True, True, False])
    assert said.counts(8).confusion.tolist() == [[1, 0], [0, 1]]
    assert said.counts(8, everybody=True).confusion.tolist() == [[1, 0], [1, 1]]
    nobody = dataclasses.replace(said, held_out=np.zeros(3, bool))
    assert nobody.counts(8).confusion.sum() == 0
    assert nobody.right() == {}


@pytest.fixture
def here(make_sites, small_study):
    study = small_study(privacy={"unit": "off"})
    (site,) = load_sites(make_sites(1, patients=6))
    ingest(site, study)
    return site, study


def test_a_judgement_gives_the_very_counts_of_an_evaluation(here):
    site, study = here
    model, cohort = initial_model(study, 0), open_cohort(site, study)
    said = Judgement.of(model, cohort, study)
    expected = evaluate(model, cohort, cohort.holdout_patients(), study)
    np.testing.assert_array_equal(said.counts(64).to_vector(), expected.to_vector())
    assert len(said.right()) == len(cohort.holdout_patients()) < 6
    everybody = Judgement.of(model, cohort, study, everybody=True)
    assert everybody.counts(64, everybody=True).confusion.sum() == 6
    assert everybody.right() == said.right()


def test_what_a_model_said_of_patients_is_sealed_at_the_site_and_opens_there_only(here, judged):
    site, study = here
    said = Judgement.of(initial_model(study, 0), open_cohort(site, study), study)
    name = said.save(site)
    assert is_saved(site, name)
    (file,) = (site.folder / "judgements").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    content = file.read_bytes()
    assert said.pseudonyms[0].tobytes() not in content
    assert said.decisions.probabilities[0].tobytes() not in content
    assert Judgement.load(site, name).right() == said.right()
    other = said.save(site)
    (site.folder / "judgements" / f"{other}.sealed").write_bytes(content)  # another's answers under this name
    with pytest.raises(DataError, match="missing or damaged"):
        Judgement.load(site, other)
    with pytest.raises(DataError, match="missing or damaged"):
        Judgement.load(site, "0" * 16)
