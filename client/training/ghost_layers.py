"""Layers whose backward pass records what a private step needs of each patient.

While a step records, a supported module runs as an autograd function of ours: the same forward kernel,
the same gradient of its input, but no gradient of its parameters. In its place the layer leaves a
``Record`` on the step's ``Tape``. A parameter that reaches the loss on any other way gets an ordinary
``.grad``, by which the step notices.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from client.training.ghost_cost import LayerShape, prefers_grams
from client.training.ghost_records import (
    Record,
    Weights,
    erase,
    form_product,
    formed,
    gram_squares,
    precise,
    weigh,
)
from client.training.products import products
from common.errors import UsageError


@dataclass
class Tape:
    """The records of one backward pass over ``views`` * ``patients`` rows, by layer.

    ``rooms`` outlives the pass: memory for formed gradients, which new memory would make twice as dear.
    ``pools``: layers after the views were pooled have one row a patient.
    """

    views: int
    patients: int
    rooms: dict[str, Tensor]
    pools: bool = False
    ran: set[str] = field(default_factory=set)
    records: dict[str, Record] = field(default_factory=dict)
    _kept: set[int] = field(default_factory=set)

    def room(self, name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Memory [P, *weight] for the formed gradients of a layer, with anything in it."""
        room = self.rooms.get(name)
        if room is None or len(room) < self.patients or room.dtype != dtype:
            room = self.rooms[name] = weight.new_empty(self.patients, *weight.shape, dtype=dtype)
        return room[: self.patients]

    def keep(self, b: Tensor) -> Tensor:
        """``b``, to be scaled in place later: a copy if another layer keeps the same memory."""
        b = b.detach().contiguous()
        address = b.untyped_storage().data_ptr()
        if address in self._kept:
            return b.clone()
        self._kept.add(address)
        return b


class GhostLayer(ABC):
    """A module with trainable parameters and how it runs while a step records."""

    def __init__(self, name: str, module: Any, tape: Tape) -> None:
        self.name, self.module, self.tape = name, module, tape

    def __call__(self, x: Tensor) -> Tensor:
        """The module's output. Raises UsageError when it already ran in this step."""
        if self.name in self.tape.ran:
            raise UsageError(
                f"layer '{self.name}' is used twice in one pass: its patients' gradients can't be told apart",
                "Give each use a layer of its own",
            )
        self.tape.ran.add(self.name)
        output: Tensor = _Recorded.apply(self, x, self.module.weight, self.module.bias)
        return output

    @abstractmethod
    def compute(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The output, and what ``differentiate`` needs beside ``x``."""

    @abstractmethod
    def differentiate(self, x: Tensor, saved: Sequence[Tensor], b: Tensor, *, dx: bool) -> Tensor | None:
        """Put the layer's record on the tape; the gradient of ``x`` if ``dx``. ``b``: that of the output."""

    def trainable(self) -> tuple[bool, bool]:
        """Whether weight and bias are trained."""
        bias = self.module.bias
        return bool(self.module.weight.requires_grad), bias is not None and bool(bias.requires_grad)


class _Recorded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: GhostLayer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG004
        output, saved = layer.compute(x)
        ctx.layer = layer
        ctx.save_for_backward(x, *saved)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, b: Tensor) -> tuple[None, Tensor | None, None, None]:
        x, *saved = ctx.saved_tensors
        return None, ctx.layer.differentiate(x.detach(), saved, b, dx=ctx.needs_input_grad[1]), None, None


class GhostNorm(GhostLayer):
    """GroupNorm. Its own backward kernel sums over examples; told that all rows are channels of one
    example, it leaves each row's sums instead, at the same cost.
    """

    def compute(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        m, n, channels = self.module, len(x), x.shape[1]
        output, mean, rstd = torch.native_group_norm(
            x.contiguous(), m.weight, m.bias, n, channels, x[0, 0].numel(), m.num_groups, m.eps
        )
        return output, (mean, rstd)

    def differentiate(self, x: Tensor, saved: Sequence[Tensor], b: Tensor, *, dx: bool) -> Tensor | None:
        m, n, channels = self.module, len(x), x.shape[1]
        rows = n * channels
        by_weight, by_bias = self.trainable()
        gradient, gamma, beta = torch.ops.aten.native_group_norm_backward(
            b.reshape(1, rows, -1),
            x.reshape(1, rows, -1),
            saved[0].view(1, -1),
            saved[1].view(1, -1),
            m.weight.detach().repeat(n),
            1,
            rows,
            x[0, 0].numel(),
            n * m.num_groups,
            [dx, by_weight, by_bias],
        )
        views, patients = self.tape.views, self.tape.patients
        parts = [(m.weight, gamma)] * by_weight + [(m.bias, beta)] * by_bias
        self.tape.records[self.name] = formed(
            [(p, precise(g).view(views, patients, channels).sum(0)) for p, g in parts]
        )
        return gradient.view_as(x) if dx else None


class GhostLinear(GhostLayer):
    """Linear, over the last of any number of dimensions; rows are a patient's views, or one where they were pooled."""

    def compute(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        return F.linear(x, self.module.weight, self.module.bias), ()

    def differentiate(self, x: Tensor, saved: Sequence[Tensor], b: Tensor, *, dx: bool) -> Tensor | None:  # noqa: ARG002
        self.tape.records[self.name] = self._record(x, self.tape.keep(b))
        return b @ self.module.weight.detach() if dx else None

    def _record(self, x: Tensor, b: Tensor) -> Record:
        patients, m = self.tape.patients, self.module
        views = 1 if self.tape.pools and len(x) == patients else self.tape.views
        if len(x) != views * patients:
            raise UsageError(
                f"layer '{self.name}' has {len(x)} rows; expected {views} for each of {patients} patients",
                "Give the layer rows that belong to one patient each",
            )
        by_weight, by_bias = self.trainable()
        a = x.reshape(views, patients, -1, m.in_features)
        b = b.view(views, patients, -1, m.out_features)
        left, right = precise(a).transpose(2, 3), precise(b).transpose(2, 3)
        bias = [(m.bias, right.sum(dim=(0, 3)))] if by_bias else []
        places = views * a.shape[2]
        if not by_weight:
            return formed(bias)
        if not prefers_grams(LayerShape(m.in_features, m.out_features, (1, 1), places, places)):
            return formed(
                [(m.weight, form_product(left, right, self.tape.room(self.name, m.weight, left.dtype))), *bias]
            )

        def clipped_sum(weights: Weights) -> list[tuple[nn.Parameter, Tensor]]:
            scaled = precise(weigh(b, weights)).flatten(0, 2)
            inputs = precise(erase(a, weights)).flatten(0, 2)
            return [(m.weight, scaled.t() @ inputs)] + ([(m.bias, scaled.sum(0))] if by_bias else [])

        rows = by_places(left)
        return Record(gram_squares(products(rows, rows), by_places(right), bias=by_bias), clipped_sum)


def by_places(tensor: Tensor) -> Tensor:
    """[K, N, channels, S] as [N, K * S, channels]: the views of a patient side by side."""
    _, count, channels, _ = tensor.shape
    return tensor.permute(1, 0, 3, 2).reshape(count, -1, channels)
