import pytest
import torch
from torch import nn

from client.training import ghost_records
from client.training.ghost_records import Weights, erase, form_product, formed, gram_squares, precise, weigh

NOBODY = torch.tensor([], dtype=torch.long)


def test_norms_from_grams_are_those_of_the_gradients():
    a, b = torch.randn(5, 7, 3, dtype=torch.float64), torch.randn(5, 7, 4, dtype=torch.float64)
    gradients = torch.einsum("nso,nsp->nop", b, a)
    found = gram_squares(a @ a.mT, b, bias=False)
    assert torch.allclose(found, gradients.square().sum(dim=(1, 2)), rtol=1e-12)
    found = gram_squares(a @ a.mT, b, bias=True)
    assert torch.allclose(found, gradients.square().sum(dim=(1, 2)) + b.sum(1).square().sum(1), rtol=1e-12)


def test_views_are_summed_into_one_gradient():
    a, b = torch.randn(3, 5, 2, 7, dtype=torch.float64), torch.randn(3, 5, 4, 7, dtype=torch.float64)
    assert torch.allclose(
        form_product(a, b, torch.empty(5, 4, 2, dtype=torch.float64)), torch.einsum("knos,knps->nop", b, a)
    )


def cancelling(patients: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Two places whose products are huge and cancel in all but the last bits: float32 can't see the rest."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(patients, 1, 16, generator=generator).repeat(1, 2, 1) * 300
    b = torch.randn(patients, 1, 16, generator=generator).repeat(1, 2, 1) * 300
    b[:, 1] = -b[:, 0] * (1 + 1e-6 * torch.rand(patients, 1, generator=generator))
    return a, b


@pytest.mark.parametrize(("rounding", "holds"), [(ghost_records.ROUNDING, True), (0.0, False)])
def test_the_clip_holds_where_products_cancel_and_would_not_without_the_rounding_bound(monkeypatch, rounding, holds):
    monkeypatch.setattr(ghost_records, "ROUNDING", rounding)
    a, b = cancelling()
    norms = gram_squares(a @ a.mT, b, bias=False).sqrt()
    factors = (1.0 / (norms + 1e-6)).clamp(max=1.0)
    contributions = torch.einsum("n,nso,nsp->nop", factors.double(), b.double(), a.double()).flatten(1).norm(dim=1)
    assert bool((contributions <= 1 + 1e-3).all()) is holds


def test_the_clip_holds_where_a_projection_takes_all_but_the_last_bits():
    """Gradients that lie along the standardised kernel, so that what is left of them is rounding."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(16, generator=generator)
    u = (u - u.mean()) / u.std(correction=0)
    b = torch.randn(400, 1, 1, generator=generator) * 300
    a = (u + 1e-3 * torch.randn(400, 1, 16, generator=generator)) * 300
    lost = ((b * a).sum((1, 2)) ** 2 + ((b * a) @ u).sum(1) ** 2) / 16
    norms = gram_squares(a @ a.mT, b, lost=lost).sqrt()
    whole = b.double() * a.double()
    left = whole - whole.mean(-1, keepdim=True) - u.double() * (whole @ u.double() / 16)[..., None]
    assert ((left.flatten(1).norm(dim=1) / norms.double()).max() <= 1 + 1e-3).item()


def test_the_rounding_bound_hardly_moves_an_ordinary_norm():
    a, b = torch.randn(50, 64, 32), torch.randn(50, 64, 32)
    exact = torch.einsum("nso,nsp->nop", b.double(), a.double()).square().sum(dim=(1, 2))
    ratio = gram_squares(a @ a.mT, b, bias=False).double() / exact
    assert (ratio - 1).abs().max() < 1e-4
    assert (ratio > 1).all()


def test_infinite_rows_of_broken_patients_leave_nothing():
    rows = torch.ones(2, 3, 4)
    rows[:, 1] = float("inf")
    weights = Weights(torch.tensor([0.5, 0.0, 1.0]), torch.tensor([1]))
    assert erase(rows.clone(), weights).isfinite().all()
    weighed = weigh(rows, weights)
    assert weighed[:, 0].eq(0.5).all()
    assert weighed[:, 1].eq(0.0).all()
    assert weighed[:, 2].eq(1.0).all()


def test_formed_gradients_are_weighed_and_summed():
    weight, bias = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))
    by_weight, by_bias = torch.randn(4, 2, 3), torch.randn(4, 2)
    record = formed([(weight, by_weight.clone()), (bias, by_bias.clone())])
    assert torch.allclose(record.squares, by_weight.square().sum(dim=(1, 2)) + by_bias.square().sum(1))
    factors = torch.rand(4)
    (_, total), (_, shift) = record.clipped_sum(Weights(factors, NOBODY))
    assert torch.allclose(total, torch.einsum("n,nop->op", factors, by_weight), atol=1e-6)
    assert torch.allclose(shift, factors @ by_bias, atol=1e-6)


def test_low_precision_becomes_float32_and_double_stays():
    assert precise(torch.ones(1, dtype=torch.bfloat16)).dtype == torch.float32
    assert precise(torch.ones(1, dtype=torch.float64)).dtype == torch.float64
