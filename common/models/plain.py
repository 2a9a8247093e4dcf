"""A plain convolutional network to compare with: ResNet-18 without its shortcuts.

The "plain" network of He et al. (2016, section 3.3): the same layers one after the other, so that what a comparison
shows is what the shortcuts bring, and everything that goes through a ResNet's layers goes through it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class PlainBlock(BasicBlock):  # type: ignore[misc] # torchvision is untyped
    """Two convolutions with their norms, and no way around them."""

    def __init__(
        self, inplanes: int, planes: int, stride: int = 1, _shortcut: nn.Module | None = None, *rest: Any, **more: Any
    ) -> None:
        super().__init__(inplanes, planes, stride, None, *rest, **more)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [n, planes, height / stride, width / stride] of maps [n, inplanes, height, width]."""
        out = self.relu(self.bn1(self.conv1(x)))
        maps: Tensor = self.relu(self.bn2(self.conv2(out)))
        return maps
