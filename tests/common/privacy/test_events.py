"""Mechanism events: bounds, and their one spelling in JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.privacy.events import (
    Event,
    Gaussian,
    SubsampledGaussian,
    event_from_dict,
    event_to_dict,
    events_from_json,
    events_to_json,
)

SIGMAS = st.floats(0.01, 1e6)
COUNTS = st.integers(1, 10_000_000)
EVENTS = st.one_of(
    st.builds(SubsampledGaussian, sigma=SIGMAS, q=st.floats(1e-9, 1), steps=COUNTS),
    st.builds(Gaussian, sigma=SIGMAS, count=COUNTS),
)


@given(st.lists(EVENTS, max_size=5))
def test_events_come_back_from_json_as_they_went(events: list[Event]):
    text = events_to_json(events)
    assert events_from_json(text) == tuple(events)
    assert events_to_json(events_from_json(text)) == text


def test_whole_number_sigma_is_spelled_as_a_float():
    assert events_to_json([Gaussian(10, 1)]) == events_to_json([Gaussian(10.0, 1)])


@pytest.mark.parametrize("sigma", [0, -1, float("nan"), float("inf"), 0.009, 2e6, True, "1", None])
def test_a_bad_sigma_is_refused_by_name_and_value(sigma):
    with pytest.raises(UsageError, match=r"SubsampledGaussian\.sigma") as caught:
        SubsampledGaussian(sigma, 0.1, 1)
    assert repr(sigma) in str(caught.value)
    with pytest.raises(UsageError, match=r"Gaussian\.sigma"):
        Gaussian(sigma)


@pytest.mark.parametrize("q", [0, -0.1, 1.0001, float("nan"), True, "0.5"])
def test_a_bad_rate_is_refused_by_name_and_value(q):
    with pytest.raises(UsageError, match=r"SubsampledGaussian\.q") as caught:
        SubsampledGaussian(1.0, q, 1)
    assert repr(q) in str(caught.value)


@pytest.mark.parametrize("count", [0, -1, 1.0, True, 10_000_001, "1"])
def test_a_bad_count_is_refused_by_name_and_value(count):
    with pytest.raises(UsageError, match=r"steps"):
        SubsampledGaussian(1.0, 0.1, count)
    with pytest.raises(UsageError, match=r"Gaussian\.count"):
        Gaussian(1.0, count)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "laplace"}, "laplace"),
        ({"unit": "slice"}, "slice"),
        ({"unit": None}, "unit"),
        ({"extra": 1}, "extra"),
        ({"sigma": "1"}, "sigma"),
        ({"count": 0}, "count"),
    ],
)
def test_a_dict_that_is_no_event_is_refused(change, named):
    with pytest.raises(UsageError, match=named):
        event_from_dict({**event_to_dict(Gaussian(1.0)), **change})


def test_an_event_with_a_missing_key_is_refused():
    with pytest.raises(UsageError, match="count"):
        event_from_dict({"kind": "gaussian", "unit": "patient", "sigma": 1.0})


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", "null", json.dumps([{"kind": "gaussian"}])])
def test_text_that_is_no_list_of_events_is_refused(text):
    with pytest.raises(UsageError):
        events_from_json(text)
