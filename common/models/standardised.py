"""Convolutions with weight standardisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-8


class StandardisedConv2d(nn.Conv2d):
    """Conv2d whose kernel of each output channel has mean 0 and variance 1, whatever its weights are.

    Weight standardisation (Qiao et al. 2019), which with GroupNorm takes the place of BatchNorm; De et al. (2022)
    found that it serves private training. It is of the weights alone, so no example touches another.
    """

    def standardised(self) -> tuple[Tensor, Tensor]:
        """The kernels used, of the weight's shape, and 1 / deviation of each one's weights [out, 1, 1, 1]."""
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        scale = (variance + EPSILON).rsqrt()
        return (self.weight - mean) * scale, scale

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, out, h, w] of maps [n, in, height, width]."""
        maps: Tensor = self._conv_forward(x, self.standardised()[0], self.bias)
        return maps
