"""Weights as they travel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire import pack, unpack


def test_float32_travels_as_it_is():
    vector = np.array([1e-30, 3e38], dtype=np.float32)
    array, exponent = pack(vector, "float32")
    assert exponent == 0
    assert np.array_equal(unpack(array, 0, "float32", 2), vector)


@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False), max_size=20))
def test_float16_never_overflows_and_keeps_eleven_bits_of_all_but_the_smallest(values):
    vector = np.array(values, dtype=np.float32)
    array, exponent = pack(vector, "float16")
    assert array.dtype == np.float16
    again = unpack(array, exponent, "float16", vector.size)
    largest = np.abs(vector.astype(np.float64)).max(initial=0)
    error = np.abs(again.astype(np.float64) - vector)
    assert (error <= np.maximum(np.abs(vector) * 2.0**-11, largest * 2.0**-39) + 2.0**-126).all()


def test_small_updates_keep_their_precision_which_plain_float16_loses():
    update = np.random.default_rng(0).normal(0, 1e-6, 1000).astype(np.float32)
    again = unpack(*pack(update, "float16"), "float16", 1000)
    assert np.linalg.norm(again - update) < 5e-4 * np.linalg.norm(update)
    assert np.linalg.norm(update.astype(np.float16) - update) > 1e-2 * np.linalg.norm(update)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_packed(bad):
    with pytest.raises(ValueError, match="finite"):
        pack(np.array([1, bad], dtype=np.float32), "float16")


HALF, FULL = np.ones(3, np.float16), np.ones(3, np.float32)
ATTACKS = {
    "the other type": (FULL, 0, "float16", 3),
    "half where full is agreed": (HALF, 0, "float32", 3),
    "another length": (HALF, 0, "float16", 4),
    "another shape": (HALF[None], 0, "float16", 3),
    "an exponent with float32": (FULL, 1, "float32", 3),
    "an exponent beyond all": (HALF, 201, "float16", 3),
    "an exponent that makes it infinite": (HALF, 150, "float16", 3),
    "infinity": (np.array([1, np.inf, 0], np.float16), 0, "float16", 3),
    "no number": (np.array([1, np.nan, 0], np.float32), 0, "float32", 3),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_array_that_is_not_as_agreed_is_refused(name):
    with pytest.raises(ValueError, match=r"array|exponent"):
        unpack(*ATTACKS[name])
