"""Conv2d without unfolding its input: Grams of patches from Grams of pixels, gradients from grouped kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from client.training.ghost_cost import LayerShape, prefers_grams
from client.training.ghost_layers import GhostLayer, by_places
from client.training.ghost_records import Record, Weights, erase, form_product, formed, gram_squares, precise, weigh
from client.training.products import products

# Patients go through a kernel together, as groups, while their gradients are this small: beyond, each call
# gets new memory from the system, which takes longer to hand out than the kernel to fill.
CALL_BYTES = 5 << 20

# The library has a kernel of its own for a first layer's few channels, but not in groups: one patient at a time
# is up to twice as fast.
FEW_CHANNELS = 8

# The library's weight gradient is slow for wide layers on planes of a few pixels: while unfolding this many examples
# fills less memory than the weight, one matrix product is faster.
UNFOLDED = 64


class GhostConv(GhostLayer):
    """Conv2d with any stride, dilation, groups and symmetric zero padding."""

    def compute(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        m = self.module
        return F.conv2d(x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups), ()

    def differentiate(self, x: Tensor, saved: Sequence[Tensor], b: Tensor, *, dx: bool) -> Tensor | None:
        self.tape.records[self.name] = self._record(x.contiguous(), self.tape.keep(b), saved)
        return self._backward(b, x, self.kernels(saved), self.module.groups, 0) if dx else None

    def kernels(self, saved: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """What the convolution was made with."""
        weight: Tensor = self.module.weight.detach()
        return weight

    def pulled(self, gradients: Tensor, saved: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """Gradients [N, *weight] of the kernels as those of the weight; they may be overwritten."""
        return gradients

    def stretched(self, b: Tensor, saved: Sequence[Tensor]) -> Tensor:  # noqa: ARG002
        """``b``, times what the weight's gradient of each output channel is longer than the kernel's."""
        return b

    def lost(self, x: Tensor, b: Tensor, saved: Sequence[Tensor]) -> Tensor | None:  # noqa: ARG002
        """What the weight's squared norms [P * groups] lack of the kernels' (``b`` is ``stretched``); None for nothing."""
        return None

    def _backward(
        self, b: Tensor, x: Tensor, weight: Tensor, groups: int, which: int, stride: tuple[int, int] | None = None
    ) -> Tensor:
        """The gradient of the input (``which`` = 0) or of the weight (1); ``stride`` if it is not the layer's."""
        m = self.module
        found: Tensor = torch.ops.aten.convolution_backward(
            b,
            x,
            weight,
            None,
            stride or m.stride,
            m.padding,
            m.dilation,
            False,
            [0, 0],
            groups,
            [which == 0, which == 1, False],
        )[which]
        return found

    def _record(self, x: Tensor, b: Tensor, saved: Sequence[Tensor]) -> Record:
        m, views, patients = self.module, self.tape.views, self.tape.patients
        by_weight, by_bias = self.trainable()
        bias = [(m.bias, precise(b).view(views, patients, m.out_channels, -1).sum(dim=(0, 3)))] if by_bias else []
        if not by_weight:
            return formed(bias)
        if self.pointwise:
            x = x[:, :, :: m.stride[0], :: m.stride[1]].contiguous()
        shape = LayerShape(
            m.in_channels // m.groups,
            m.out_channels // m.groups,
            m.kernel_size,
            views * x.shape[2] * x.shape[3],
            views * b.shape[2] * b.shape[3],
        )
        if prefers_grams(shape):
            squares = self._gram_squares(precise(x), precise(b), saved)
            if bias:
                squares = squares + bias[0][1].square().sum(1)
            return Record(squares, lambda weights: self._sum(x, b, weights, saved))
        return formed([(m.weight, self.pulled(self._form(precise(x), precise(b)), saved)), *bias])

    def convolve(self, x: Tensor, kernels: Tensor) -> Tensor:
        """``x`` under other kernels, in the layer's own way."""
        m = self.module
        return F.conv2d(x, kernels, None, m.stride, m.padding, m.dilation, m.groups)

    @property
    def pointwise(self) -> bool:
        """Whether a patch is a pixel; strides are taken before all else then."""
        return bool(self.module.kernel_size == (1, 1) and self.module.padding == (0, 0))

    def _by_group(self, tensor: Tensor) -> Tensor:
        """[K * P, channels, h, w] as [K, P * groups, channels of a group, h * w]."""
        views, count = self.tape.views, self.tape.patients * self.module.groups
        return tensor.view(views, count, -1, tensor.shape[2] * tensor.shape[3])

    def _form(self, x: Tensor, b: Tensor) -> Tensor:
        """Each patient's gradient [P, *weight]."""
        m, views, patients = self.module, self.tape.views, self.tape.patients
        room = self.tape.room(self.name, m.weight, x.dtype)
        if self.pointwise:
            form_product(
                self._by_group(x), self._by_group(b), room.view(patients * m.groups, -1, x.shape[1] // m.groups)
            )
            return room
        count = max(1, CALL_BYTES // room[0].nbytes) if m.in_channels // m.groups >= FEW_CHANNELS else 1
        x, b = (t.view(views, patients, *t.shape[1:]) for t in (x, b))
        weight = m.weight.detach()[:1, :1, :1, :1].to(x.dtype)
        for start in range(0, patients, count):
            some = slice(start, start + count)
            # As many times the groups, each with weights of its own (of which only the shape counts).
            left, right, out = b[:, some].flatten(1, 2), x[:, some].flatten(1, 2), room[some]
            gradients = self._backward(left, right, weight.expand(out.flatten(0, 1).shape), len(out) * m.groups, 1)
            out.copy_(gradients.view_as(out))
        return room

    def _gram_squares(self, x: Tensor, b: Tensor, saved: Sequence[Tensor]) -> Tensor:
        m, b = self.module, self.stretched(b, saved)
        rows = by_places(self._by_group(x))
        gram = products(rows, rows)
        if not self.pointwise:
            gram = patch_gram(gram, m, self.tape.views, tuple(x.shape[2:]), tuple(b.shape[2:]))
        squares = gram_squares(gram, by_places(self._by_group(b)), lost=self.lost(x, b, saved))
        return squares.view(self.tape.patients, m.groups).sum(1)

    def _sum(
        self, x: Tensor, b: Tensor, weights: Weights, saved: Sequence[Tensor]
    ) -> list[tuple[nn.Parameter, Tensor]]:
        m, views = self.module, self.tape.views
        b = precise(weigh(b.view(views, -1, *b.shape[1:]), weights)).flatten(0, 1)
        x = precise(erase(x.view(views, -1, *x.shape[1:]), weights)).flatten(0, 1)
        bias = [(m.bias, b.sum(dim=(0, 2, 3)))] if self.trainable()[1] else []
        return [(m.weight, self.pulled(self._weight_sum(x, b)[None], saved)[0]), *bias]

    def _weight_sum(self, x: Tensor, b: Tensor) -> Tensor:
        """The gradient of the kernels, summed over all rows: an ordinary one."""
        m = self.module
        if m.groups == 1 and not self.pointwise and UNFOLDED * b.shape[2] * b.shape[3] < m.out_channels:
            patches = F.unfold(x, m.kernel_size, m.dilation, m.padding, m.stride)
            return products(_channel_rows(b)[None], _channel_rows(patches)[None]).view_as(m.weight)
        stride = (1, 1) if self.pointwise else None  # taken already
        return self._backward(b, x, precise(m.weight.detach()), m.groups, 1, stride)


def _channel_rows(tensor: Tensor) -> Tensor:
    """[n, channels, ...] as [channels, n * the rest]."""
    return tensor.transpose(0, 1).reshape(tensor.shape[1], -1)


def patch_gram(
    pixels: Tensor, module: nn.Conv2d, views: int, plane_in: tuple[int, ...], plane_out: tuple[int, ...]
) -> Tensor:
    """Inner products of the patches that a convolution sees, from those of single pixels.

    ``pixels`` [N, K*H*W, K*H*W] to [N, K*h*w, K*h*w]: patches s and t have in common the sum, over the
    places of the kernel, of the products of the pixels there. Rows are summed first, then columns.
    """
    (height, width), (h, w), count = plane_in, plane_out, len(pixels)
    gram = pixels.view(count, views, height, width, views, height, width)
    rows = gram.new_zeros(count, views, h, width, views, h, width)
    for out, source in _overlaps(module, 0, height, h):
        rows[:, :, out, :, :, out] += gram[:, :, source, :, :, source]
    both = gram.new_zeros(count, views, h, w, views, h, w)
    for out, source in _overlaps(module, 1, width, w):
        both[:, :, :, out, :, :, out] += rows[:, :, :, source, :, :, source]
    return both.view(count, views * h * w, views * h * w)


def _overlaps(module: nn.Conv2d, side: int, size: int, places: int) -> list[tuple[slice, slice]]:
    """For each kernel row (or column): the places where it lies on the image, and the pixels there."""
    stride, dilation = module.stride[side], module.dilation[side]
    found = []
    for index in range(module.kernel_size[side]):
        offset = index * dilation - int(module.padding[side])
        first, last = max(0, -(offset // stride)), min(places - 1, (size - 1 - offset) // stride)
        if first <= last:
            begin = offset + stride * first
            found.append((slice(first, last + 1), slice(begin, begin + stride * (last - first) + 1, stride)))
    return found
