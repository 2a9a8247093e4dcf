from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.geometry import Series
from client.ingest.labels import Labels
from client.ingest.records import Reason
from client.ingest.select import ONLY_SERIES, Chosen, choose_series, fold_of, split_fraction
from common.study import Evaluation


@pytest.fixture(scope="module")
def series(make_series):
    """A series of one patient whose slices are named after its UID."""

    def make(patient="P", study="1.1", uid="1.2", *, slices=5, spacing=2.0, **values) -> Series:
        made = make_series(slices, spacing, patient_id=patient, study_uid=study, series_uid=uid, **values)
        headers = tuple(
            dataclasses.replace(header, path=f"{patient}/{study}/{uid}/{k}", sop_uid=f"{uid}.{k}")
            for k, header in enumerate(made.headers)
        )
        return dataclasses.replace(made, headers=headers)

    return make


def uids(chosen) -> list[str]:
    return sorted(one.series.headers[0].series_uid for one in chosen)


def turned(one: Series) -> Series:
    """The same, acquired sagittally."""
    headers = tuple(dataclasses.replace(h, orientation=(0, 1, 0, 0, 0, -1)) for h in one.headers)
    return dataclasses.replace(one, headers=headers)


def test_rivals_are_ranked_by_one_criterion_after_the_other(make_study, series):
    """Each series of the list is worse than the one before it by the criterion named, and better by all that follow."""
    study = make_study(kernels=["Br4*", "*30f"], thickness_mm=2.0, slice_spacing_mm=2.0)
    best = {"slices": 6, "thickness": 2.2, "kernel": "br40d\\3"}
    order = [
        ("slices", series(uid="best", **best)),
        ("thickness", series(uid="fewer slices", **best | {"slices": 5})),
        ("kernel", series(uid="thicker", **best | {"slices": 9, "thickness": 3.0})),
        ("kernel", series(uid="second kernel", **best | {"slices": 9, "kernel": "B30f", "thickness": 2.0})),
        ("axial", series(uid="other kernel", **best | {"slices": 9, "kernel": "B70f", "thickness": 2.0})),
        ("PRIMARY", turned(series(uid="sagittal", slices=9, kernel="Br40", thickness=2.0))),
        ("ORIGINAL", series(uid="secondary", slices=9, kernel="Br40", thickness=2.0, primary=False)),
        (ONLY_SERIES, series(uid="derived", slices=9, kernel="Br40", thickness=2.0, original=False)),
    ]
    pool = [one for _, one in reversed(order)]
    for place, (criterion, expected) in enumerate(order):
        (chosen,), skips = choose_series(pool, Labels({"P": 1}), study)
        assert uids([chosen]) == uids([Chosen(expected, None, None, None)])
        assert (chosen.decided_by, chosen.rivals) == (criterion, len(order) - place - 1)
        assert {skip.reason for skip in skips} <= {Reason.OTHER_SERIES}
        assert len(skips) == sum(len(one.headers) for one in pool) - len(chosen.series.headers)
        assert chosen.labels.tolist() == [1] * len(chosen.labels)
        pool.remove(expected)


def test_series_alike_in_everything_are_told_apart_by_lot_whatever_their_order(make_study, series):
    pool = [series(uid=uid) for uid in "abcde"]
    (first,), _ = choose_series(pool, Labels({"P": 0}), make_study())
    (again,), _ = choose_series(pool[::-1], Labels({"P": 0}), make_study())
    assert first.decided_by == again.decided_by == "lot"
    assert uids([first]) == uids([again])


def test_without_a_wanted_thickness_the_thinnest_is_taken(make_study, series):
    pool = [series(uid="thick", thickness=5.0, slices=9), series(uid="unsaid", thickness=0.0, spacing=1.0)]
    (chosen,), _ = choose_series(pool, Labels({"P": 0}), make_study())
    assert (uids([chosen]), chosen.decided_by) == (["unsaid"], "thickness")  # its spacing stands for it


def test_an_id_with_two_classes_is_left_out_by_name(make_study, series):
    pool = [series(patient="P", uid="a"), series(patient="Q", uid="b"), series(patient="R", uid="c")]
    chosen, skips = choose_series(pool, Labels({"P": 0}, frozenset({"Q"})), make_study())
    assert uids(chosen) == ["a"]
    assert [skip.reason for skip in skips] == [Reason.CONFLICTING_LABEL] * 5 + [Reason.NO_LABEL] * 5
    slices = make_study(label_level="slice")
    chosen, skips = choose_series(pool[:2], Labels({"a.0": 1}, frozenset({"a.1", "b.2"})), slices)
    assert [one.labels.tolist() for one in chosen] == [[1]]
    assert [skip.reason for skip in skips].count(Reason.CONFLICTING_LABEL) == 1
    assert [skip.reason for skip in skips].count(Reason.NO_LABEL) == 4


def test_slices_that_are_not_axial_are_left_out_where_the_study_wants_them_as_acquired(make_study, series):
    chosen, skips = choose_series([turned(series())], Labels({"P": 0}), make_study())
    assert not chosen
    assert {skip.reason for skip in skips} == {Reason.NOT_AXIAL}


def test_a_patient_may_have_several_labelled_studies_and_series(make_study, series):
    pool = [series(study="1", uid="a"), series(study="1", uid="b", slices=4), series(study="2", uid="c")]
    assert uids(choose_series(pool, Labels({"1": 0, "2": 1}), make_study(label_level="study"))[0]) == ["a", "c"]
    chosen, skips = choose_series(pool, Labels({"b": 0, "c": 1}), make_study(label_level="series"))
    assert uids(chosen) == ["b", "c"]
    assert {skip.reason for skip in skips} == {Reason.NO_LABEL}


def test_slice_labels_make_examples_of_labelled_slices_only(make_study, series):
    pool = [series(uid="a"), series(uid="b"), series(uid="c")]
    labels = {"a.0": 1, "a.3": 0, "b.4": 1, "elsewhere": 0}
    chosen, skips = choose_series(pool, Labels(labels), make_study(label_level="slice"))
    found = {one.series.headers[0].series_uid: one for one in chosen}
    assert sorted(found) == ["a", "b"]
    assert found["a"].labels.tolist() == [1, 0]
    assert found["a"].plan.slices.tolist() == [0, 3]
    assert found["a"].plan.examples.tolist() == [[0, 0, 1], [2, 3, 4]]
    assert found["a"].ids == {"a.0", "a.3"}
    assert [skip.reason for skip in skips] == [Reason.NO_LABEL] * 5


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), patient=st.text(), holdout=st.floats(0.01, 0.99), more=st.floats(0, 0.5))
def test_a_patient_once_held_out_stays_so_when_the_share_grows(seed, patient, holdout, more):
    # The rule, written out: anyone may compute it, and nothing but seed and patient enters.
    fraction = int(hashlib.sha256(f"{seed}:{patient}".encode("utf-8", "surrogatepass")).hexdigest()[:16], 16) / 2**64
    fold = fold_of(Evaluation(holdout=holdout, split_seed=seed), patient)
    assert fold == (1 if fraction < holdout else 2)
    if fold == 1:
        assert fold_of(Evaluation(holdout=min(0.999, holdout + more), split_seed=seed), patient) == 1


@settings(deadline=None)
@given(seed=st.integers(0, 2**31), patient=st.text(), folds=st.integers(2, 20), fold=st.integers(1, 20))
def test_the_fold_of_a_patient_follows_from_seed_and_patient_whichever_fold_is_studied(seed, patient, folds, fold):
    fraction = int(hashlib.sha256(f"{seed}:{patient}".encode("utf-8", "surrogatepass")).hexdigest()[:16], 16) / 2**64
    found = fold_of(Evaluation(folds=folds, fold=min(fold, folds), split_seed=seed), patient)
    assert found == min(folds, 1 + int(fraction * folds))


def test_every_patient_is_in_one_fold_and_folds_are_about_equal():
    folds = np.array([fold_of(Evaluation(folds=5, fold=1), f"patient-{i}") for i in range(4000)])
    sizes = np.bincount(folds, minlength=6)
    assert sizes[0] == 0
    assert np.all(np.abs(sizes[1:] - 800) < 4 * np.sqrt(4000 * 0.2 * 0.8))


def test_the_share_held_out_is_the_one_asked_for():
    fractions = np.array([split_fraction(7, f"patient-{i}") for i in range(4000)])
    for holdout in (0.1, 0.2, 0.5):
        assert abs((fractions < holdout).mean() - holdout) < 4 * np.sqrt(holdout * (1 - holdout) / 4000)
    assert abs(np.corrcoef(fractions, [split_fraction(8, f"patient-{i}") for i in range(4000)])[0, 1]) < 0.06


@settings(deadline=None, max_examples=20)
@given(names=st.sets(st.text("ABC123", min_size=1, max_size=6), min_size=2, max_size=12), data=st.data())
def test_the_split_does_not_depend_on_who_else_is_there(make_study, series, names, data):
    study = make_study()
    some = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))

    def held_out(patients):
        pool = [series(patient=name, uid=name) for name in patients]
        chosen, _ = choose_series(pool, Labels(dict.fromkeys(names, 0)), study)
        return [one.series.patient_id for one in chosen if fold_of(study.evaluation, one.series.patient_id) == 1]

    everyone = held_out(sorted(names))
    assert held_out(sorted(some, reverse=True)) == [name for name in everyone if name in some]
