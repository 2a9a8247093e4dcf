"""Each strategy against plain numpy, and against liars."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation import begin, fedadam, fedavgm, fedyogi, robust
from server.aggregation.mean import RunningMean
from server.aggregation.spool import Spool

LENGTH = 6
SETTINGS = {
    "fedavg": {},
    "fedprox": {"proximal_mu": 0.1},
    "scaffold": {},
    "median": {"minimum_sites": 3},
    "trimmed-mean": {"trim": 0.25, "minimum_sites": 4},
    "multi-krum": {"liars": 1, "minimum_sites": 5},
}
ROBUST = ("median", "trimmed-mean", "multi-krum")


def vector(*values):
    return np.array(values, dtype=np.float32)


@pytest.fixture
def step_of(small_study, tmp_path):
    """The step of a round of a strategy on these updates, by site; ``order`` of arrival."""

    def make(strategy, updates, order=None, **settings):
        study = small_study(federation={"strategy": strategy, **SETTINGS[strategy], **settings})
        length = len(next(iter(updates.values())))
        aggregate = begin(study, 1, length, len(updates), {}, tmp_path)
        try:
            for site in order or updates:
                aggregate.add(site, updates[site])
            assert aggregate.count == len(updates)
            return aggregate.step()[0]
        finally:
            aggregate.close()

    return make


def some(count, length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    return {f"s{n}": rng.normal(size=length).astype(np.float32) for n in range(count)}


def stack(updates):
    return np.stack(list(updates.values())).astype(np.float64)


@pytest.mark.parametrize("strategy", SETTINGS)
@pytest.mark.parametrize("seed", range(5))
def test_the_result_does_not_depend_on_who_was_first(step_of, strategy, seed):
    updates = some(9, seed=seed)
    order = list(np.random.default_rng(seed).permutation(list(updates)))
    assert np.allclose(step_of(strategy, updates), step_of(strategy, updates, order), atol=1e-6)


@pytest.mark.parametrize("strategy", SETTINGS)
def test_equal_updates_give_that_update(step_of, strategy):
    update = some(1)["s0"]
    found = step_of(strategy, {f"s{n}": update for n in range(7)}, server_learning_rate=0.5)
    assert found.dtype == np.float32
    assert np.allclose(found, 0.5 * update, atol=1e-6)


@pytest.mark.parametrize("strategy", SETTINGS)
@pytest.mark.parametrize("bad", [vector(1, np.nan), vector(np.inf, 0), vector(1), np.zeros(2)])
def test_a_bad_update_is_refused_and_changes_nothing(small_study, tmp_path, strategy, bad):
    study = small_study(federation={"strategy": strategy, **SETTINGS[strategy]})
    aggregate = begin(study, 1, 2, 5, {}, tmp_path)
    for n in range(5):
        aggregate.add(f"s{n}", vector(1, 2))
    with pytest.raises(ValueError, match="update is"):
        aggregate.add("evil", bad)
    assert aggregate.count == 5
    assert np.allclose(aggregate.step()[0], vector(1, 2), atol=1e-6)
    aggregate.close()


@pytest.mark.parametrize("strategy", SETTINGS)
def test_nothing_is_no_step(small_study, tmp_path, strategy):
    study = small_study(federation={"strategy": strategy, **SETTINGS[strategy]})
    aggregate = begin(study, 1, 2, 5, {}, tmp_path)
    with pytest.raises(ValueError, match="update"):
        aggregate.step()
    aggregate.close()


def test_public_weights_make_a_weighted_mean(step_of):
    updates = some(3)
    found = step_of("fedavg", updates, weights={"s0": 3.0, "s2": 0.5})
    assert np.allclose(found, np.average(stack(updates), axis=0, weights=[3, 1, 0.5]), atol=1e-6)


def test_the_mean_is_exact_enough_for_a_hundred_sites():
    rng = np.random.default_rng(0)
    updates = (rng.normal(size=(100, 500)) * 10.0 ** rng.integers(-3, 3, (1, 500))).astype(np.float32)
    mean = RunningMean(500)
    for n, update in enumerate(updates):
        mean.add(f"s{n}", update)
    exact = updates.astype(np.float64).mean(axis=0)
    scale = np.abs(updates).astype(np.float64).mean(axis=0)
    assert (np.abs(mean.mean() - exact) <= 100 * 2.0**-24 * scale).all()


def test_median_and_trimmed_mean_are_those_of_numpy(step_of):
    updates = some(9, length=4001)
    ordered = np.sort(stack(updates), axis=0)
    assert np.allclose(step_of("median", updates), np.median(stack(updates), axis=0), atol=1e-7)
    assert np.allclose(step_of("trimmed-mean", updates), ordered[2:-2].mean(axis=0), atol=1e-6)


def plain_multi_krum(rows, liars):
    n = len(rows)
    scores = []
    for i in range(n):
        others = sorted(float(((rows[i] - rows[j]) ** 2).sum()) for j in range(n) if j != i)
        scores.append(sum(others[: n - liars - 2]))
    chosen = sorted(range(n), key=lambda i: scores[i])[: n - liars - 2]
    return rows[chosen].mean(axis=0)


@pytest.mark.parametrize("liars", [1, 2, 3])
def test_multi_krum_is_the_papers(step_of, liars):
    updates = some(9, length=3000, seed=liars)
    found = step_of("multi-krum", updates, liars=liars, minimum_sites=9)
    assert np.allclose(found, plain_multi_krum(stack(updates), liars), atol=1e-6)


def test_a_spool_of_many_blocks_gives_what_one_block_gives(tmp_path, monkeypatch):
    updates = some(5, length=10_000)
    spool = Spool(tmp_path / "updates.f32", 10_000)
    for site, update in updates.items():
        spool.add(site, update)
    whole = [robust.median(spool), robust.multi_krum(spool, 1)]
    monkeypatch.setattr("server.aggregation.spool.BLOCK_BYTES", 1)
    assert sum(1 for _ in spool.blocks()) == 10
    assert np.array_equal(robust.median(spool), whole[0])
    assert np.allclose(robust.multi_krum(spool, 1), whole[1], atol=1e-7)
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_spool_holds_some_columns_in_memory_and_no_more(tmp_path, memory_peak, monkeypatch):
    monkeypatch.setattr("server.aggregation.spool.BLOCK_BYTES", 1 << 20)
    length = 1 << 20
    spool = Spool(tmp_path / "updates.f32", length)
    update = np.ones(length, dtype=np.float32)
    with memory_peak(4 * length + (6 << 20)):  # the result, and a few blocks
        for n in range(40):
            spool.add(f"s{n}", update)
        robust.median(spool)
    with memory_peak(4 * length + (6 << 20)):
        robust.multi_krum(spool, 5)
    spool.close()


LIES = {
    "huge": lambda rng, honest: np.full(honest.shape[1], 3e38),
    "the opposite of the mean, a thousand times": lambda rng, honest: -1000 * honest.mean(axis=0),
    "noise": lambda rng, honest: rng.normal(size=honest.shape[1]) * 1e6,
    "just outside the others": lambda rng, honest: honest.max(axis=0) + 1e-3,
    "nothing": lambda rng, honest: np.zeros(honest.shape[1]),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("strategy", ROBUST)
@pytest.mark.parametrize("seed", range(3))
def test_liars_together_can_t_take_a_coordinate_out_of_the_range_of_the_honest(step_of, lie, strategy, seed):
    rng = np.random.default_rng(seed)
    honest = some(9, length=50, seed=seed)
    false = LIES[lie](rng, stack(honest)).astype(np.float32)
    settings = {"trim": 0.25} if strategy == "trimmed-mean" else {"liars": 3} if strategy == "multi-krum" else {}
    everybody = {f"a-liar{n}": false for n in range(3)} | honest
    found = step_of(strategy, everybody, **settings, minimum_sites=9)
    low, high = stack(honest).min(axis=0), stack(honest).max(axis=0)
    if lie == "just outside the others" and strategy == "multi-krum":  # a lie among the honest may be chosen
        high = high + 2e-3
    assert (found >= low - 1e-6).all()
    assert (found <= high + 1e-6).all()


def test_the_same_liars_do_move_a_mean(step_of):
    honest = some(9, length=50)
    false = LIES["the opposite of the mean, a thousand times"](None, stack(honest)).astype(np.float32)
    found = step_of("fedavg", {f"a-liar{n}": false for n in range(3)} | honest)
    assert (np.abs(found) > np.abs(stack(honest)).max(axis=0)).any()


@given(st.integers(3, 12), st.integers(0, 2**31))
def test_a_minority_can_t_move_the_median_out_of_the_others(count, seed):
    rng = np.random.default_rng(seed)
    liars = (count - 1) // 2
    honest = rng.normal(size=(count - liars, 4))
    false = rng.normal(size=(liars, 4)) * 10.0 ** rng.integers(-3, 9)
    found = np.median(np.concatenate([honest, false]).astype(np.float32), axis=0)
    assert (found >= honest.min(axis=0) - 1e-6).all()
    assert (found <= honest.max(axis=0) + 1e-6).all()


def test_too_few_updates_for_the_liars_are_refused(tmp_path):
    spool = Spool(tmp_path / "updates.f32", LENGTH)
    for site, update in some(4).items():
        spool.add(site, update)
    with pytest.raises(ValueError, match="needs 5"):
        robust.multi_krum(spool, 1)
    spool.close()


def test_a_second_update_of_a_site_is_refused(tmp_path):
    spool = Spool(tmp_path / "updates.f32", 2)
    spool.add("a", vector(1, 2))
    with pytest.raises(ValueError, match="second"):
        spool.add("a", vector(3, 4))
    assert spool.count == 1
    spool.close()


def test_fedavgm_keeps_nine_tenths_of_its_velocity():
    step, state = fedavgm.apply(vector(1), {}, 1.0)
    step, state = fedavgm.apply(vector(1), state, 1.0)
    assert np.allclose(step, 1.9)


def test_fedadam_follows_the_papers_formula():
    first, second, state = 0.0, 1e-6, {}
    for update in (0.3, -0.1, 0.2):
        first = 0.9 * first + 0.1 * update
        second = 0.99 * second + 0.01 * update**2
        step, state = fedadam.apply(vector(update), state, 0.1)
        assert step.dtype == np.float32
        assert np.allclose(step, 0.1 * first / (np.sqrt(second) + 1e-3), rtol=1e-5)


def test_fedyogi_follows_the_papers_formula():
    first, second, state = 0.0, 1e-6, {}
    for update in (0.3, -0.1, 0.2, 0.0):
        first = 0.9 * first + 0.1 * update
        second = second - 0.01 * update**2 * np.sign(second - update**2)
        step, state = fedyogi.apply(vector(update), state, 0.1)
        assert step.dtype == state["second"].dtype == np.float32
        assert np.allclose(step, 0.1 * first / (np.sqrt(second) + 1e-3), rtol=1e-5)
