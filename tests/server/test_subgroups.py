from __future__ import annotations

import numpy as np
import pytest

from common.subgroups import BANDS
from server.evaluation import proportion
from server.subgroups import gap, subgroups


def confusions(**bands):
    """Of sex, from (right, wrong) by band."""
    found = np.zeros((len(BANDS["sex"]), 2, 2))
    for name, (right, wrong) in bands.items():
        found[BANDS["sex"].index(name)] = [[right, wrong], [0, 0]]
    return found


def test_sites_add_up_and_each_band_is_held_against_all_others():
    released = {
        "a": ({"sex": confusions(female=(30, 10), male=(10, 10))}, 0.0),
        "b": ({"sex": confusions(female=(10, 0), male=(35, 5))}, 0.0),
        "c": ({}, 0.0),
    }
    (found,) = subgroups(released)
    assert (found.attribute, found.sites) == ("sex", ("a", "b"))
    female, male = found.bands
    assert (female.name, female.accuracy.hits, female.accuracy.cases) == ("female", 40, 50)
    assert (male.accuracy.value, male.gap.value) == (0.75, pytest.approx(0.75 - 0.8))
    assert female.gap.value == -male.gap.value
    assert (female.gap.low, female.gap.high) == pytest.approx((-male.gap.high, -male.gap.low))


def test_the_gap_is_newcombes_interval():
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    found = gap(proportion(56, 70, 0.0, (1, 1)), proportion(48, 80, 0.0, (1, 1)))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_too_few_cases_have_no_accuracy_and_no_gap():
    (found,) = subgroups({"a": ({"sex": confusions(female=(30, 10), other=(2, 1))}, 0.0)})
    female, other = found.bands
    assert (other.accuracy.value, other.accuracy.note, other.gap.note) == (None, "few-cases", "few-cases")
    assert (female.accuracy.value, female.gap.value, female.gap.note) == (0.75, None, "few-cases")


def test_noise_widens_intervals_and_drowns_small_bands():
    rng = np.random.default_rng(0)
    exact = confusions(female=(300, 100), male=(250, 50))
    (plain,), (noised,) = (
        subgroups({"a": ({"sex": exact + noise}, std)})
        for noise, std in ((0.0, 0.0), (rng.normal(0, 10.0, exact.shape), 10.0))
    )
    assert [band.name for band in noised.bands] == list(BANDS["sex"])
    by_name = {band.name: band for band in noised.bands}
    assert by_name["other"].accuracy.note == "noise"
    width = by_name["female"].accuracy.high - by_name["female"].accuracy.low
    assert width > plain.bands[0].accuracy.high - plain.bands[0].accuracy.low
