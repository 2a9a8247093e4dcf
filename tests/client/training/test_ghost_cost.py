import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.training.ghost_cost import (
    CONVOLUTION_ENTRY,
    FORMED_ENTRY,
    GRAM_ENTRY,
    PRODUCTS,
    LayerShape,
    formed_cost,
    gram_cost,
    prefers_grams,
)


def test_the_formula_by_hand():
    conv = LayerShape(channels_in=4, channels_out=6, kernel=(3, 5), pixels=20, places=10)
    assert formed_cost(conv) == pytest.approx(CONVOLUTION_ENTRY * 6 * 4 * 15)
    assert gram_cost(conv) == pytest.approx((400 * 4 + 100 * 6) / PRODUCTS + GRAM_ENTRY * (400 + 100 * 9))
    linear = LayerShape(channels_in=4, channels_out=6, kernel=(1, 1), pixels=2, places=2)
    assert formed_cost(linear) == pytest.approx(FORMED_ENTRY * 24)
    assert gram_cost(linear) == pytest.approx(4 * 10 / PRODUCTS + GRAM_ENTRY * 8)


@pytest.mark.parametrize(
    ("where", "shape", "grams"),
    [
        ("first convolution", LayerShape(3, 64, (7, 7), 64 * 64, 32 * 32), False),
        ("early, large plane", LayerShape(64, 64, (3, 3), 16 * 16, 16 * 16), False),
        ("early, 1 x 1", LayerShape(256, 64, (1, 1), 56 * 56, 56 * 56), False),
        ("late, small plane", LayerShape(512, 512, (3, 3), 4, 4), True),
        ("late, 1 x 1", LayerShape(2048, 512, (1, 1), 49, 49), True),
        ("head of two classes", LayerShape(512, 2, (1, 1), 1, 1), True),
    ],
)
def test_early_layers_are_formed_and_late_ones_take_grams(where, shape, grams):
    assert prefers_grams(shape) is grams, where


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 7), st.integers(1, 400))
def test_more_places_never_speak_for_grams(channels_in, channels_out, side, places):
    small = LayerShape(channels_in, channels_out, (side, side), places, places)
    large = LayerShape(channels_in, channels_out, (side, side), places + 1, places + 1)
    assert gram_cost(small) < gram_cost(large)
    assert formed_cost(small) == formed_cost(large)
