from __future__ import annotations

import numpy as np
import pytest

from simulations.compare.assemble import arm, duels, settings_that_differ
from simulations.compare.significance import corrected_t, delong, holm, mcnemar

PATIENTS = {"north": "abcdef", "south": "ghijkl"}
A, B, C = ("study", "federated"), ("study", "local"), ("study", "central")


@pytest.fixture
def three_folds(judged):
    """Three folds of two sites, twelve patients a fold; models that are right in 90, 60 and 60 of 100."""
    rng = np.random.default_rng(0)
    truth = [{"north": rng.permutation([0, 1] * 3), "south": rng.permutation([0, 1] * 3)} for _ in range(3)]

    def said(share):
        def one(names, labels):
            right = rng.random(6) < share
            return judged(names, labels, np.where(right, labels, 1 - labels))

        return [{site: one(names, fold[site]) for site, names in PATIENTS.items()} for fold in truth]

    return {A: said(0.9), B: said(0.4), C: said(0.4)}


def test_folds_and_sites_add_up_to_each_patient_once(three_folds, small_study):
    found = arm(A, small_study().of_fold(1, 3), three_folds[A])
    assert (
        found.metrics.cases == sum(m.cases for m in found.per_site.values()) == sum(f.cases for f in found.folds) == 36
    )
    hits = [round(fold.accuracy * fold.cases) for fold in found.folds]
    assert sum(hits) == found.metrics.accuracy.hits
    assert found.spread["accuracy"].mean == pytest.approx(np.mean(hits) / 12)
    assert found.spread["accuracy"].sd == pytest.approx(np.std([h / 12 for h in hits], ddof=1))
    assert [fold.fold for fold in found.folds] == [1, 2, 3]
    assert found.everybody == {}


def test_each_test_is_corrected_over_the_pairs(three_folds):
    first, second = duels([(A, B), (A, C)], three_folds, scores=True)
    steps = [fold_accuracy(three_folds[A], n) - fold_accuracy(three_folds[B], n) for n in range(3)]
    assert first.tests["corrected-t"].p == pytest.approx(corrected_t(steps).p)
    assert first.difference == pytest.approx(np.mean(steps))
    assert first.tests["mcnemar"].p == pytest.approx(mcnemar(first.better, first.worse).p)
    assert first.better - first.worse == pytest.approx(36 * np.mean(steps))
    assert "delong" not in first.tests  # scores of different models are not ranked together
    for name in ("corrected-t", "wilcoxon", "mcnemar"):
        plain = [first.tests[name].p, second.tests[name].p]
        assert [first.tests[name].adjusted, second.tests[name].adjusted] == holm(plain)


def fold_accuracy(folds, number):
    rights = [value for judgement in folds[number].values() for value in judgement.right().values()]
    return np.mean(rights)


def test_of_one_split_delong_looks_at_scores_only_if_it_may(three_folds):
    single = {key: said[:1] for key, said in three_folds.items()}
    (hidden,) = duels([(A, B)], single, scores=False)
    assert set(hidden.tests) == {"mcnemar"}
    (open_,) = duels([(A, B)], single, scores=True)
    first, second = ([single[key][0][site].decisions for site in PATIENTS] for key in (A, B))
    labels = np.concatenate([d.labels for d in first])
    scores = [np.concatenate([d.probabilities for d in one]) for one in (first, second)]
    expected = delong(labels, *scores)
    assert expected.p < 1
    assert open_.tests["delong"].p == pytest.approx(expected.p)
    assert (open_.low, open_.high) != (None, None)


def test_delong_refuses_images_that_are_no_independent_cases(judged):
    said = [{"north": judged("aabbcd", [0, 1, 0, 1, 0, 1], [0, 1, 1, 1, 0, 1])}]
    (found,) = duels([(A, B)], {A: said, B: said}, scores=True)
    assert found.tests["delong"].p is None
    assert "several labels" in found.tests["delong"].note
    assert found.tests["mcnemar"].p == 1.0


def test_a_hospital_that_took_no_part_is_judged_on_all_its_patients(judged, small_study):
    said = [{"north": judged("abcdef", [0, 1] * 3, [0, 1] * 3, held_out=[True] * 2 + [False] * 4)}]
    found = arm(("study", "unseen"), small_study(), said)
    assert (found.per_site["north"].cases, found.everybody["north"].cases) == (2, 6)
    assert arm(("study", "central"), small_study(), said).everybody == {}


def test_only_settings_that_matter_are_called_a_difference(small_study):
    first = small_study(name="one")
    second = small_study(name="two", title="Another", model={"trainable": "head"}, privacy={"unit": "off"})
    found = {one.setting: one.values for one in settings_that_differ([first, second, first])}
    assert found["model.trainable"] == ("all", "head", "all")
    assert found["privacy.epsilon"] == (8.0, None, 8.0)
    assert not {"name", "title"} & set(found)
    assert settings_that_differ([first.of_fold(1, 3), first.of_fold(2, 3)]) == ()
