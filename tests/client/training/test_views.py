import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from client.training.randomness import KEY_BYTES, Keystream
from client.training.views import DRAWS, Views, augment, draw_views, to_input

KEY = bytes(range(KEY_BYTES))


def uniform(n, seed=0):
    return np.random.default_rng(seed).random((n, DRAWS))


@given(st.integers(1, 12), st.integers(1, 12))
def test_every_patient_gets_the_same_number_of_views_distinct_while_it_can(examples, views):
    patient = np.arange(examples) * 10
    drawn = draw_views(patient, views, Keystream(KEY))
    assert len(drawn) == views
    assert set(drawn) <= set(patient)
    assert len(set(drawn)) == views or views > examples


def test_every_example_of_a_patient_comes_up():
    stream = Keystream(KEY)
    for views, examples in ((2, 5), (4, 3)):
        counts = np.bincount(
            np.concatenate([draw_views(np.arange(examples), views, stream) for _ in range(300)]), minlength=examples
        )
        assert counts.min() > 0.7 * counts.mean()


def test_input_is_centred_with_public_constants():
    got = to_input(np.array([[[[0, 255]]]], dtype=np.uint8))
    assert got.flatten().tolist() == [-2.0, 2.0]


def test_augmentation_keeps_shape_and_is_fixed_by_its_draws():
    batch = torch.rand(5, 3, 32, 32)
    one, two = (augment(batch, "sagittal", uniform(5)) for _ in range(2))
    assert one.shape == batch.shape
    assert torch.equal(one, two)
    assert not torch.equal(one, batch)


def test_an_example_is_varied_by_its_own_draws_alone():
    batch, draws = torch.rand(4, 3, 32, 32), uniform(4)
    whole = augment(batch, "axial", draws)
    for i in range(4):
        assert torch.allclose(augment(batch[i : i + 1], "axial", draws[i : i + 1])[0], whole[i], atol=1e-6)


def test_draws_in_the_middle_leave_an_example_as_it_is():
    batch = torch.rand(2, 3, 32, 32)
    assert torch.allclose(augment(batch, "axial", np.full((2, DRAWS), 0.5)), batch, atol=1e-5)


def test_an_empty_batch_stays_empty():
    assert augment(torch.empty(0, 3, 32, 32), "axial", uniform(0)).shape == (0, 3, 32, 32)


def test_the_mirror_of_a_sagittal_stack_swaps_its_neighbours_and_no_pixels():
    planes = torch.stack([torch.full((16, 16), float(v)) for v in (1, 2, 3, 10, 20, 30)])
    batch = planes.expand(64, -1, -1, -1)
    got = augment(batch, "sagittal", uniform(64))
    ratios = got[:, 0, 8, 8] < got[:, 2, 8, 8]
    assert 0.2 < ratios.float().mean() < 0.8
    assert torch.equal(ratios, got[:, 3, 8, 8] < got[:, 5, 8, 8])


@pytest.fixture
def views(study_of, examples):
    def make(key=KEY, **training):
        return Views(examples, study_of(training={"views_per_patient": 2, **training}), Keystream(key))

    return make


def test_nobody_drawn_gives_an_empty_batch(views):
    inputs, labels = views().batch([])
    assert inputs.shape == (0, 3, 32, 32)
    assert labels.shape == (0,)


def test_views_of_a_patient_stand_together_under_its_label(views, examples):
    inputs, labels = views(augment=False).batch(examples.groups[2:5])
    assert inputs.shape == (6, 3, 32, 32)
    assert labels.tolist() == [0, 0, 1, 1, 0, 0]
    own = to_input(examples.pixels(examples.groups[3]))
    assert all(any(torch.equal(row, other) for other in own) for row in inputs[2:4])


def test_a_patient_is_seen_anew_each_time_it_is_drawn(views, examples):
    source = views()
    first, second = (source.batch(examples.groups[:1])[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(views().batch(examples.groups[:1])[0], first)
    assert not torch.equal(views(KEY[::-1]).batch(examples.groups[:1])[0], first)


def test_one_patient_more_leaves_the_views_of_all_others_as_they_were(views, examples):
    """The attack: under one known secret, a patient that comes first shifts nobody else's views."""
    without, with_one = views(), views()
    for _ in range(3):
        alone = without.batch(examples.groups[1:])
        together = with_one.batch(examples.groups)
        assert torch.equal(together[0][2:], alone[0])
        assert torch.equal(together[1][2:], alone[1])


def test_where_a_patient_stands_in_the_cohort_does_not_count(study_of, examples):
    study = study_of(training={"views_per_patient": 2})
    moved = type(examples)()
    order = np.concatenate(examples.groups[4:] + examples.groups[:4])
    moved.labels, moved._pixels = examples.labels[order], examples._pixels[order]
    here, there = (Views(e, study, Keystream(KEY)) for e in (examples, moved))
    for i in range(8):
        assert torch.equal(here.batch([examples.groups[i]])[0], there.batch([moved.groups[(i + 4) % 8]])[0])
