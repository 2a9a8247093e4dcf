"""Products of many pairs of matrices."""

import pytest
import torch

from client.training import products as module
from client.training.products import products

SHAPES = [(3, 5, 7, 11), (2, 256, 256, 64), (2, 64, 300, 513)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fast", [True, False])
def test_each_pair_is_multiplied(shape, fast, monkeypatch):
    count, rows, columns, places = shape
    monkeypatch.setattr(module, "FAST", fast and module.FAST)
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(count, rows, places, generator=generator)
    right = torch.randn(count, columns, places, generator=generator)
    exact = torch.einsum("nos,nps->nop", left.double(), right.double())
    found = products(left, right)
    assert (found - exact).abs().max() < 1e-6 * exact.abs().max() * places**0.5
    room = torch.full_like(found, torch.nan)
    assert products(left, right, room) is room
    assert torch.equal(room, found)


def test_matrices_that_do_not_lie_side_by_side_in_memory_are_multiplied_too():
    rows = torch.randn(2, 96, 256, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(products(rows.mT, rows.mT), rows.mT @ rows, atol=1e-4)


def test_double_precision_stays_so():
    rows = torch.randn(2, 200, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(products(rows, rows), rows @ rows.mT, rtol=1e-13)


def test_infinite_and_undefined_entries_stay_in_their_own_product():
    rows = torch.ones(2, 200, 200)
    rows[0, 3, 4], rows[0, 5, 6] = torch.inf, torch.nan
    found = products(rows, rows)
    assert not found[0].isfinite().all()
    assert torch.equal(found[1], torch.full((200, 200), 200.0))
