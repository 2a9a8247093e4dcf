"""ResNets that per-example gradients can go through.

torchvision's architecture and parameter names (He et al. 2016), with four changes that
differential privacy needs: GroupNorm (Wu and He 2018) in place of BatchNorm, which would mix
examples; no in-place operation, which hooks on activations can't follow; a first convolution
for any number of input channels; and features that are centred and whitened by public constants
before the head, without which a clipped gradient says little but that all images are alike.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from common.models.plain import PlainBlock
from common.models.pooling import AttentionHead, RecurrentHead
from common.models.standardised import StandardisedConv2d
from common.study import Study

GROUPS = 32
HEAD = "fc."
CONSTANTS = "avgpool."
"""Prefixes of names: the weights of the head, and the constants of ``PublicPool``."""
INPUT_MEAN, INPUT_SCALE = 0.5, 0.25
"""Pixels in 0 to 1 become (pixel - mean) / scale: public constants, none is taken from private data."""

_LAYERS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]]


class _Basic(BasicBlock):  # type: ignore[misc] # torchvision is untyped
    """Basic block without in-place operations."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        identity = x if self.downsample is None else self.downsample(x)
        total: Tensor = self.relu(out + identity)
        return total


class _Deep(Bottleneck):  # type: ignore[misc] # torchvision is untyped
    """Bottleneck block without in-place operations."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        identity = x if self.downsample is None else self.downsample(x)
        total: Tensor = self.relu(out + identity)
        return total


_LAYERS = {
    "plain18": (PlainBlock, [2, 2, 2, 2]),
    "resnet18": (_Basic, [2, 2, 2, 2]),
    "resnet34": (_Basic, [3, 4, 6, 3]),
    "resnet50": (_Deep, [3, 4, 6, 3]),
}


class PublicPool(nn.AdaptiveAvgPool2d):
    """Average pooling, then (features - ``centre``) @ ``whiten``: constants of the initial weights, never trained.

    Without pretraining 0 and the identity, which change nothing.
    """

    def __init__(self, features: int) -> None:
        super().__init__(1)
        self.centre = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.whiten = nn.Parameter(torch.eye(features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features [n, features] of maps [n, features, height, width]."""
        pooled: Tensor = super().forward(x)
        return (pooled.flatten(1) - self.centre) @ self.whiten


class Network(ResNet):  # type: ignore[misc] # torchvision is untyped
    """A ResNet whose head may look at several views of a patient (``common.models.pooling``)."""

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, [n, features], of examples [n, channels, size, size]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        found: Tensor = self.avgpool(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, classes] of examples [n, ...], or [patients, classes] of [views, patients, ...]."""
        seen = self.features(x.flatten(0, 1) if x.dim() == 5 else x)
        logits: Tensor = self.fc(seen.view(x.shape[0], x.shape[1], -1) if x.dim() == 5 else seen)
        return logits


def build_model(study: Study, *, device: str = "cpu") -> Network:
    """The study's network: input [n, channels, size, size] float32, output [n, classes] logits.

    Where the study learns to pool (``Study.pools``), patients are [views, patients, channels, size, size], and each
    example alone is a patient of one view. Parameters that the study does not train have ``requires_grad`` off. With ``device="meta"`` no
    memory is taken and no random number drawn; use ``to_empty`` and ``load_vector`` afterwards.
    """
    block, layers = _LAYERS[study.model.name]
    with torch.device(device):
        classes = len(study.task.classes)
        model = Network(block, layers, classes, norm_layer=partial(nn.GroupNorm, GROUPS))
        features = model.fc.in_features
        model.avgpool = PublicPool(features)
        if study.pools:
            model.fc = (AttentionHead if study.model.pooling == "attention" else RecurrentHead)(features, classes)
        if study.input.channels != model.conv1.in_channels:
            model.conv1 = nn.Conv2d(study.input.channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            if device != "meta":
                nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if isinstance(module, nn.Conv2d) and study.model.norm == "group-ws":
            module.__class__ = StandardisedConv2d  # the same weights by the same names, used otherwise
    _freeze(model, study.model.trainable)
    return model


def empty_model(study: Study) -> Network:
    """The study's network with uninitialised memory, ready for ``load_vector``."""
    model = build_model(study, device="meta")
    model.to_empty(device="cpu")
    return model


def _freeze(model: nn.Module, trainable: str) -> None:
    norms = {id(p) for m in model.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters()}
    public = {id(p) for m in model.modules() if isinstance(m, PublicPool) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        head = name.startswith(HEAD)
        parameter.requires_grad = {
            "all": id(parameter) not in public,
            "norm+head": head or id(parameter) in norms,
            "head": head,
        }[trainable]


def state(model: nn.Module) -> dict[str, Any]:
    """All weights by torchvision's names; GroupNorm keeps no running statistics."""
    return {name: value.detach() for name, value in model.named_parameters()}
