import numpy as np
import torch

from client.training.views import augment, draw_views, to_input


def test_every_patient_gets_the_same_number_of_views():
    patients = [np.array([0, 1, 2]), np.array([7])]
    drawn = draw_views(patients, 2, np.random.default_rng(0))
    assert len(drawn) == 4
    assert len(set(drawn[:2])) == 2
    assert set(drawn[:2]) <= {0, 1, 2}
    assert list(drawn[2:]) == [7, 7]


def test_nobody_drawn_gives_no_views():
    assert len(draw_views([], 3, np.random.default_rng(0))) == 0


def test_input_is_centred_with_public_constants():
    got = to_input(np.array([[[[0, 255]]]], dtype=np.uint8))
    assert got.flatten().tolist() == [-2.0, 2.0]


def test_augmentation_keeps_shape_and_is_fixed_by_its_generator():
    batch = torch.rand(5, 3, 32, 32)
    one = augment(batch, "sagittal", torch.Generator().manual_seed(1))
    two = augment(batch, "sagittal", torch.Generator().manual_seed(1))
    assert one.shape == batch.shape
    assert torch.equal(one, two)
    assert not torch.equal(one, batch)


def test_an_empty_batch_stays_empty():
    assert augment(torch.empty(0, 3, 32, 32), "axial", torch.Generator()).shape == (0, 3, 32, 32)


def test_the_mirror_of_a_sagittal_stack_swaps_its_neighbours_and_no_pixels():
    planes = torch.stack([torch.full((16, 16), float(v)) for v in (1, 2, 3, 10, 20, 30)])
    batch = planes.expand(64, -1, -1, -1)
    got = augment(batch, "sagittal", torch.Generator().manual_seed(0))
    ratios = got[:, 0, 8, 8] < got[:, 2, 8, 8]
    assert 0.2 < ratios.float().mean() < 0.8
    assert torch.equal(ratios, got[:, 3, 8, 8] < got[:, 5, 8, 8])
