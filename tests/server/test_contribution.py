from __future__ import annotations

import numpy as np
import pytest

from server import contribution
from server.aggregation.mean import MeanAggregate, RunningMean
from server.contribution import BUCKETS, Sketches, Watched


def plainly(updates, weights):
    """Agreement and shift with every mean made on its own."""
    found = {}
    for name, update in updates.items():
        others = [site for site in updates if site != name]
        without = sum(weights[s] * updates[s].astype(float) for s in others) / sum(weights[s] for s in others)
        mean = sum(weights[s] * updates[s].astype(float) for s in updates) / sum(weights.values())
        lengths = np.linalg.norm(update) * np.linalg.norm(without)
        found[name] = (update @ without / lengths, np.linalg.norm(mean - without) / np.linalg.norm(mean))
    return found


def made(length, common=1.0):
    rng = np.random.default_rng(3)
    shared = rng.normal(size=length) * common
    updates = {name: (shared + rng.normal(size=length)).astype(np.float32) for name in "abc"}
    updates["liar"] = -updates["a"]
    return updates


def sketched(updates, weights=None, seed=5):
    sketches = Sketches(len(updates["a"]), weights, seed)
    for site, update in updates.items():
        sketches.add(site, update)
    return sketches.contributions()


@pytest.mark.parametrize("weights", [None, {"a": 3.0, "liar": 0.5}])
def test_few_weights_give_the_exact_figures(weights):
    updates = made(500)
    found, expected = sketched(updates, weights), plainly(updates, dict.fromkeys(updates, 1.0) | (weights or {}))
    for site, (agreement, shift) in expected.items():
        assert found[site].agreement == pytest.approx(agreement, abs=1e-6)
        assert found[site].shift == pytest.approx(shift, abs=1e-6)


@pytest.mark.parametrize("block", [1 << 20, 50_000])
def test_a_sketch_finds_the_same_to_a_hundredth(monkeypatch, block):
    monkeypatch.setattr(contribution, "BLOCK", block)
    updates = made(3 * BUCKETS + 77)
    found, expected = sketched(updates), plainly(updates, dict.fromkeys(updates, 1.0))
    for site, (agreement, shift) in expected.items():
        assert found[site].agreement == pytest.approx(agreement, abs=0.02)
        assert found[site].shift == pytest.approx(shift, abs=0.02)
    assert min(found, key=lambda site: found[site].agreement) == "liar"


def test_weights_that_all_fall_on_few_places_are_no_worse():
    """Whatever the places, since their buckets are random."""
    length = 4 * BUCKETS
    updates = {name: np.zeros(length, np.float32) for name in "ab"}
    updates["a"][:: BUCKETS // 8] = 1.0
    updates["b"][:: BUCKETS // 8] = np.where(np.arange(32) % 2, 1.0, -1.0)
    assert sketched(updates)["a"].agreement == pytest.approx(0.0, abs=0.05)


def test_one_site_has_nobody_to_be_compared_with_and_no_change_has_no_direction():
    assert sketched({"a": np.ones(5, np.float32)}) == {}
    still = sketched({site: np.zeros(5, np.float32) for site in "ab"})
    assert (still["a"].agreement, still["a"].shift) == (None, None)


def test_memory_is_that_of_sketches_and_not_of_updates(memory_peak):
    length, sketches = 1 << 22, Sketches(1 << 22)
    update = np.ones(length, np.float32)
    with memory_peak(24 * contribution.BLOCK + 8 * 4 * BUCKETS * 4):
        for number in range(8):
            sketches.add(str(number), update)


def test_what_the_aggregate_refuses_leaves_no_trace():
    sketches = Sketches(3)
    watched = Watched(MeanAggregate(RunningMean(3), lambda mean, state, _rate: (mean, state), {}, 1.0), sketches)
    watched.add("a", np.ones(3, np.float32))
    with pytest.raises(ValueError, match="not finite"):
        watched.add("b", np.full(3, np.nan, np.float32))
    assert watched.count == 1
    assert sketches.contributions() == {}
    assert np.array_equal(watched.step()[0], np.ones(3))
