"""Convolutions with weight standardisation: norms and sums through the derivative of the standardisation.

The kernel u of an output channel is (w - mean(w)) * s with s = 1 / deviation(w), n weights each. A gradient g of u is

    J g = s * (g - mean(g) - u * mean(u g))

of w, and since u has mean 0 and mean square k (1 but for the epsilon in s),

    |J g|^2 = s^2 * (|g|^2 - sum(g)^2 / n - (2 - k) * (u . g)^2 / n).

With Grams g is not formed: |g|^2 comes from them, sum(g) from the sums of the patches that were seen, and u . g from
the layer's own output, which is u times each patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from client.training.ghost_conv import GhostConv
from client.training.ghost_records import precise


class GhostStandardisedConv(GhostConv):
    """``StandardisedConv2d``, as ``GhostConv`` otherwise."""

    def compute(self, x: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        m = self.module
        kernels, scale = m.standardised()
        output = F.conv2d(x, kernels, m.bias, m.stride, m.padding, m.dilation, m.groups)
        return output, (kernels, scale, output)

    def kernels(self, saved: Sequence[Tensor]) -> Tensor:
        return saved[0]

    def pulled(self, gradients: Tensor, saved: Sequence[Tensor]) -> Tensor:
        u, s = (precise(t).flatten(1).to(gradients.dtype) for t in saved[:2])
        rows = gradients.flatten(2)
        rows -= rows.mean(-1, keepdim=True)
        rows -= u * (rows * u).mean(-1, keepdim=True)
        rows *= s
        return gradients

    def stretched(self, b: Tensor, saved: Sequence[Tensor]) -> Tensor:
        return b * precise(saved[1]).view(-1, 1, 1)

    def lost(self, x: Tensor, b: Tensor, saved: Sequence[Tensor]) -> Tensor:
        m, views, patients = self.module, self.tape.views, self.tape.patients
        u, output = precise(saved[0]), precise(saved[2])
        if m.bias is not None:
            output = output - precise(m.bias.detach()).view(-1, 1, 1)
        ones = u.new_ones(1, 1, 1, 1).expand(m.groups, *u.shape[1:])
        seen = x.view(len(x), m.groups, -1, *x.shape[2:]).sum(2) if self.pointwise else self.convolve(x, ones)
        seen = seen.repeat_interleave(m.out_channels // m.groups, dim=1)
        total, along = ((b * t).view(views, patients, m.out_channels, -1).sum(dim=(0, 3)) for t in (seen, output))
        twice = 2 - u.flatten(1).square().mean(1)
        each: Tensor = (total.square() + twice * along.square()) / u[0].numel()
        return each.view(patients * m.groups, -1).sum(1)
