"""What one layer tells of one backward pass: squared norms now, the clipped sum when all norms are known.

Shapes: K views, P patients, rows ordered view by view ([K * P, ...]), N = P * groups, S places.
Norms and sums are made in float32 or better, whatever the layer computes in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from client.training.products import products

# Norms from Grams are raised by ROUNDING * epsilon * |a|^2 |b|^2, which bounds what rounding can take off
# where the products cancel: the clip must hold for gradients that somebody made to do so.
ROUNDING = 4.0


@dataclass(frozen=True)
class Weights:
    """What multiplies each patient in the sum: ``factors`` [P], all finite; ``broken`` holds the indices of
    those whose gradient is not finite, and whose factor is 0.
    """

    factors: Tensor
    broken: Tensor


@dataclass(frozen=True)
class Record:
    """One layer's part of one backward pass.

    ``squares``: squared norms [P] of each patient's gradient over the layer's trainable parameters.
    ``clipped_sum``: the weighted sum over patients for each of them; to be called once, since it uses up
    what the backward pass left.
    """

    squares: Tensor
    clipped_sum: Callable[[Weights], list[tuple[nn.Parameter, Tensor]]]


def precise(tensor: Tensor) -> Tensor:
    """In float32 or better."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def weigh(rows: Tensor, weights: Weights) -> Tensor:
    """``rows`` [K, P, ...] times the patients' factors, in place; broken patients become zero."""
    rows.mul_(weights.factors.view(1, -1, *[1] * (rows.dim() - 2)).to(rows.dtype))
    return erase(rows, weights)


def erase(rows: Tensor, weights: Weights) -> Tensor:
    """``rows`` [K, P, ...] with those of broken patients zero, in place: 0 times infinity is no zero."""
    return rows.index_fill_(1, weights.broken, 0.0)


def formed(parts: list[tuple[nn.Parameter, Tensor]]) -> Record:
    """The record of a layer whose gradients [P, ...] were formed, one for each trainable parameter."""
    squares = sum(torch.linalg.vector_norm(g.flatten(1), dim=1).square() for _, g in parts)

    def clipped_sum(weights: Weights) -> list[tuple[nn.Parameter, Tensor]]:
        return [(p, (weights.factors.to(g) @ erase(g[None], weights)[0].flatten(1)).view_as(p)) for p, g in parts]

    return Record(torch.as_tensor(squares), clipped_sum)


def gram_squares(gram_a: Tensor, b: Tensor, *, bias: bool = False, lost: Tensor | None = None) -> Tensor:
    """Squared norms [N] of sum_s b_s a_s^T, with those of sum_s b_s if there is a bias, less ``lost`` [N].

    ``gram_a`` [N, S, S] (overwritten); ``b`` [N, S, o]. ``lost``: the squared length of what a projection takes off,
    from inner products with b_s a_s^T: each is off by epsilon * |a| |b|, and so its square in proportion to itself.
    """
    gram_b = products(b, b)
    epsilon = torch.finfo(gram_b.dtype).eps
    if bias:
        gram_a += 1.0  # a bias is a weight whose input is 1
    bound = gram_a.diagonal(dim1=1, dim2=2).sum(-1) * gram_b.diagonal(dim1=1, dim2=2).sum(-1)
    squares = gram_a.mul_(gram_b).sum(dim=(1, 2))
    if lost is not None:
        squares, bound = squares - lost, bound + (lost * bound).sqrt()
    return squares.clamp_(min=0) + ROUNDING * epsilon * bound


def form_product(a: Tensor, b: Tensor, room: Tensor) -> Tensor:
    """Gradients [N, o, p] = sum over views k of b[k] a[k]^T, in ``room``; a [K, N, p, S], b [K, N, o, S]."""
    return products(_side_by_side(b), _side_by_side(a), room)


def _side_by_side(views: Tensor) -> Tensor:
    """[K, N, channels, S] as [N, channels, K * S]."""
    return views[0] if len(views) == 1 else views.permute(1, 2, 0, 3).flatten(2)
