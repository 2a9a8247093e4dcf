"""Dealing keeps the counts and gives every hospital its share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from simulations.phantom.dealing import class_counts, deal

MODEL_CASE = (279, 295, 124)


def test_the_default_shares_are_those_of_the_698_patient_study() -> None:
    assert class_counts(698, None) == MODEL_CASE


@given(st.integers(0, 3000))
def test_default_counts_add_up(patients: int) -> None:
    counts = class_counts(patients, None)
    assert sum(counts) == patients
    assert min(counts) >= 0


@pytest.mark.parametrize(
    ("counts", "text"),
    [((1, 2, 3), "add up to 6; expected 10"), ((5, 5), "expected 3 numbers"), ((11, -2, 1), "at least 0")],
)
def test_wrong_counts_are_refused_with_the_numbers(counts: tuple[int, ...], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        class_counts(10, counts)


@given(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60)), st.integers(1, 12), st.integers(0, 99))
def test_every_patient_is_dealt_once_and_no_hospital_is_empty(
    counts: tuple[int, int, int], sites: int, seed: int
) -> None:
    if sum(counts) < sites:
        with pytest.raises(UsageError):
            deal(counts, sites, np.random.default_rng(seed))
        return
    table = deal(counts, sites, np.random.default_rng(seed))
    assert table.sum(axis=0).tolist() == list(counts)
    assert table.min() >= 0
    assert table.sum(axis=1).min() >= 1
    if min(counts) >= 2 * sites:
        assert table.min() >= 2


def test_hospitals_of_the_model_case_differ_in_size_and_mix() -> None:
    table = deal(MODEL_CASE, 5, np.random.default_rng(1))
    sizes = table.sum(axis=1)
    assert sizes.max() > 1.5 * sizes.min()
    shares = table / sizes[:, None]
    assert (shares.max(axis=0) - shares.min(axis=0)).max() > 0.1


@pytest.mark.parametrize("sites", [0, -1, 11])
def test_a_wrong_number_of_sites_is_refused(sites: int) -> None:
    with pytest.raises(UsageError, match="can't be dealt"):
        deal((4, 4, 2), sites, np.random.default_rng(0))
