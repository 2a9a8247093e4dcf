"""SCAFFOLD without state at the sites, against the paper's algorithm with it."""

import numpy as np
import pytest

from common.errors import RunError
from server.aggregation import begin

LENGTH, SITES, STEPS, RATE = 5, 3, 4, 0.05


@pytest.fixture
def scaffold(small_study, tmp_path):
    def make(round_, state, length=LENGTH):
        study = small_study(
            federation={"strategy": "scaffold", "rounds": 9},
            training={"local_steps": STEPS, "learning_rate": RATE, "batch_patients": 4},
        )
        return begin(study, round_, length, SITES, state, tmp_path)

    return make


def quadratics():
    """Each site pulls to its own optimum, with its own curvature."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(SITES, LENGTH)), rng.uniform(0.5, 2, size=(SITES, LENGTH))


def steps_of(site, start, correction):
    optimum, curvature = quadratics()
    y = start.copy()
    for _ in range(STEPS):
        y -= RATE * (curvature[site] * (y - optimum[site]) + correction)
    return y


def test_it_is_the_papers_option_two_also_when_sites_are_missing(scaffold):
    x, c, own = np.zeros(LENGTH), np.zeros(LENGTH), np.zeros((SITES, LENGTH))
    ours, state = np.zeros(LENGTH), {}
    for round_ in range(1, 9):
        present = [s for s in range(SITES) if (round_ + s) % 3]
        new, ends = own.copy(), {}
        for site in present:
            ends[site] = steps_of(site, x, c - own[site])
            new[site] = own[site] - c + (x - ends[site]) / (STEPS * RATE)
        x = x + np.mean([ends[s] - x for s in present], axis=0)
        c = c + sum(new[s] - own[s] for s in present) / SITES
        own = new

        aggregate = scaffold(round_, state)
        for site in present:
            correction = aggregate.correction(f"s{site}")
            end = steps_of(site, ours, 0 if correction is None else correction)
            aggregate.add(f"s{site}", (end - ours).astype(np.float32))
        step, state = aggregate.step()
        ours = ours + step
        assert np.allclose(ours, x, atol=1e-5)
        assert np.allclose(state["control"], c, atol=1e-4)


def test_it_comes_nearer_to_the_common_optimum_than_fedavg(scaffold):
    optimum, curvature = quadratics()
    best = (optimum * curvature).sum(axis=0) / curvature.sum(axis=0)
    plain, ours, state = np.zeros(LENGTH), np.zeros(LENGTH), {}
    for round_ in range(1, 10):
        plain = np.mean([steps_of(s, plain, 0) for s in range(SITES)], axis=0)
        aggregate = scaffold(round_, state)
        for site in range(SITES):
            correction = aggregate.correction(f"s{site}")
            end = steps_of(site, ours, 0 if correction is None else correction)
            aggregate.add(f"s{site}", (end - ours).astype(np.float32))
        step, state = aggregate.step()
        ours = ours + step
    fixed = plain
    for _ in range(300):
        fixed = np.mean([steps_of(s, fixed, 0) for s in range(SITES)], axis=0)
    drift = np.linalg.norm(fixed - best)
    for round_ in range(10, 300):
        aggregate = scaffold(round_, state)
        for site in range(SITES):
            end = steps_of(site, ours, aggregate.correction(f"s{site}"))
            aggregate.add(f"s{site}", (end - ours).astype(np.float32))
        step, state = aggregate.step()
        ours = ours + step
    assert drift > 1e-3
    assert np.linalg.norm(ours - best) < drift / 100


def test_a_round_done_again_starts_from_the_same_variates(scaffold):
    one = scaffold(1, {})
    for site in "ab":
        one.add(site, np.full(LENGTH, 0.1, np.float32))
    _, state = one.step()
    broken = scaffold(2, state)
    before = broken.correction("a")
    broken.add("a", np.full(LENGTH, 7.0, np.float32))  # and then the coordinator is killed
    again = scaffold(2, state)
    assert np.array_equal(again.correction("a"), before)


def test_a_site_keeps_one_file_from_round_to_round(scaffold, tmp_path):
    state = {}
    for round_ in (1, 2, 5):
        aggregate = scaffold(round_, state)
        aggregate.add("st.anna-2", np.ones(LENGTH, np.float32))
        _, state = aggregate.step()
    scaffold(6, state)
    assert [path.name for path in (tmp_path / "controls").iterdir()] == ["st.anna-2.5.f32"]


def test_a_damaged_variate_is_named(scaffold, tmp_path):
    aggregate = scaffold(1, {})
    aggregate.add("a", np.ones(LENGTH, np.float32))
    (tmp_path / "controls" / "a.1.f32").write_bytes(b"1234")
    with pytest.raises(RunError, match=r"a\.1\.f32' holds 1 values"):
        scaffold(2, {}).correction("a")
