import numpy as np
import pytest
import torch

from server.pretraining import scenes
from server.pretraining.scenes import FACTS, draw_scenes


def drawn(seed, count=32, size=32):
    return draw_scenes(count, size, np.random.default_rng(seed))


def test_the_same_numbers_give_the_same_scenes_and_others_give_others():
    one, again, other = drawn(1), drawn(1), drawn(2)
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.facts, again.facts)
    assert not torch.equal(one.images, other.images)


@pytest.mark.parametrize("size", [32, 48])
def test_images_are_planes_of_greys_between_black_and_white(size):
    made = drawn(3, count=4, size=size)
    assert made.images.shape == (4, 3, size, size)
    assert made.images.dtype == torch.float32
    assert 0 <= made.images.min() < made.images.max() <= 1


def test_every_fact_differs_between_scenes_and_is_finite():
    facts = drawn(4, count=256).facts
    assert facts.shape == (256, len(FACTS))
    assert facts.isfinite().all()
    assert (facts.std(0) > 0.01).all()


def test_a_chain_without_an_odd_link_tells_of_none():
    facts = drawn(5, count=256).facts
    plain = facts[facts[:, FACTS.index("odd")] == 0]
    assert len(plain) > 20
    assert (plain[:, : FACTS.index("size")] == 0).all()


def test_what_a_fact_says_can_be_seen(monkeypatch):
    """Of scenes without anything else, bright chains of larger links cover more."""
    monkeypatch.setattr(scenes, "LEAVES", 0)
    made = drawn(6, count=512)
    alone = made.images.flatten(1).std(1)
    size = made.facts[:, FACTS.index("size")]
    assert np.corrcoef(alone.numpy(), size.numpy())[0, 1] > 0.15


def test_neighbouring_planes_are_alike_but_not_the_same():
    images = drawn(7, count=64).images
    lower, centre, upper = images.unbind(1)
    assert not torch.equal(lower, upper)
    assert (lower - centre).abs().mean() < 0.7 * (centre - centre.roll(1, 0)).abs().mean()
