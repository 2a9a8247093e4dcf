from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.geometry import Series
from client.ingest.records import Header, Reason
from client.ingest.select import choose_series, is_held_out, split_fraction


def series(patient="P", study="1.1", uid="1.2", *, slices=5, spacing=2.0, original=True) -> Series:
    first = Header("x", patient, study, uid, "", (0, 0, 0), (1, 0, 0, 0, 1, 0), (1, 1), 40, 40, original)
    headers = tuple(
        dataclasses.replace(first, path=f"{patient}/{study}/{uid}/{i}", sop_uid=f"{uid}.{i}") for i in range(slices)
    )
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [spacing, 0, 0, 0], [0, 0, 0, 1.0]])
    return Series(headers, affine)


def uids(chosen) -> list[str]:
    return sorted(one.series.headers[0].series_uid for one in chosen)


def test_original_comes_first_then_most_slices_then_the_thinnest(make_study):
    derived = series(uid="derived", slices=9, original=False)
    short = series(uid="short", slices=5)
    thick = series(uid="thick", slices=7, spacing=3.0)
    thin = series(uid="thin", slices=7, spacing=1.0)
    pool = [derived, short, thick, thin]
    study = make_study()
    for expected in ("thin", "thick", "short", "derived"):
        chosen, skips = choose_series(pool, {"P": 1}, study)
        assert uids(chosen) == [expected]
        assert {skip.reason for skip in skips} <= {Reason.OTHER_SERIES}
        assert len(skips) == sum(len(one.headers) for one in pool) - len(chosen[0].series.headers)
        assert chosen[0].labels.tolist() == [1] * len(chosen[0].series.headers)
        pool = [one for one in pool if one.headers[0].series_uid != expected]


def test_a_patient_may_have_several_labelled_studies_and_series(make_study):
    pool = [series(study="1", uid="a"), series(study="1", uid="b", slices=4), series(study="2", uid="c")]
    assert uids(choose_series(pool, {"1": 0, "2": 1}, make_study(label_level="study"))[0]) == ["a", "c"]
    chosen, skips = choose_series(pool, {"b": 0, "c": 1}, make_study(label_level="series"))
    assert uids(chosen) == ["b", "c"]
    assert {skip.reason for skip in skips} == {Reason.NO_LABEL}


def test_slice_labels_make_examples_of_labelled_slices_only(make_study):
    pool = [series(uid="a"), series(uid="b"), series(uid="c")]
    labels = {"a.0": 1, "a.3": 0, "b.4": 1, "elsewhere": 0}
    chosen, skips = choose_series(pool, labels, make_study(label_level="slice"))
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
    assert is_held_out(seed, patient, holdout) == (fraction < holdout)
    if is_held_out(seed, patient, holdout):
        assert is_held_out(seed, patient, min(0.999, holdout + more))


def test_the_share_held_out_is_the_one_asked_for():
    fractions = np.array([split_fraction(7, f"patient-{i}") for i in range(4000)])
    for holdout in (0.1, 0.2, 0.5):
        assert abs((fractions < holdout).mean() - holdout) < 4 * np.sqrt(holdout * (1 - holdout) / 4000)
    assert abs(np.corrcoef(fractions, [split_fraction(8, f"patient-{i}") for i in range(4000)])[0, 1]) < 0.06


@settings(deadline=None, max_examples=20)
@given(names=st.sets(st.text("ABC123", min_size=1, max_size=6), min_size=2, max_size=12), data=st.data())
def test_the_split_does_not_depend_on_who_else_is_there(make_study, names, data):
    study = make_study()
    some = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))

    def held_out(patients):
        pool = [series(patient=name, uid=name) for name in patients]
        chosen, _ = choose_series(pool, dict.fromkeys(names, 0), study)
        return [one.series.patient_id for one in chosen if is_held_out(0, one.series.patient_id, 0.3)]

    everyone = held_out(sorted(names))
    assert held_out(sorted(some, reverse=True)) == [name for name in everyone if name in some]
