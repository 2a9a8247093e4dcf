import numpy as np
import pytest

from server.aggregation import STRATEGIES, RunningMean


def vector(*values):
    return np.array(values, dtype=np.float32)


def test_the_running_mean_is_the_mean_whatever_the_order():
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(50, 9)).astype(np.float32)
    forward, backward = RunningMean(9), RunningMean(9)
    for update in updates:
        forward.add(update)
    for update in updates[::-1]:
        backward.add(update)
    assert np.allclose(forward.mean(), updates.mean(axis=0), atol=1e-6)
    assert np.allclose(forward.mean(), backward.mean(), atol=1e-7)


@pytest.mark.parametrize("bad", [vector(1, np.nan), vector(np.inf, 0), vector(1), np.zeros(2)])
def test_a_bad_update_is_refused_and_adds_nothing(bad):
    mean = RunningMean(2)
    mean.add(vector(1, 2))
    with pytest.raises(ValueError, match="update is"):
        mean.add(bad)
    assert mean.count == 1
    assert np.array_equal(mean.mean(), vector(1, 2))


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no update"):
        RunningMean(3).mean()


def test_fedavg_moves_by_the_mean_update():
    step, state = STRATEGIES["fedavg"](vector(1, -2), {}, 0.5)
    assert np.array_equal(step, vector(0.5, -1))
    assert state == {}


def test_fedavgm_keeps_nine_tenths_of_its_velocity():
    step, state = STRATEGIES["fedavgm"](vector(1), {}, 1.0)
    step, state = STRATEGIES["fedavgm"](vector(1), state, 1.0)
    assert np.allclose(step, 1.9)


def test_fedadam_follows_the_papers_formula():
    first, second, state = 0.0, 1e-6, {}
    for update in (0.3, -0.1, 0.2):
        first = 0.9 * first + 0.1 * update
        second = 0.99 * second + 0.01 * update**2
        step, state = STRATEGIES["fedadam"](vector(update), state, 0.1)
        assert step.dtype == np.float32
        assert np.allclose(step, 0.1 * first / (np.sqrt(second) + 1e-3), rtol=1e-5)
