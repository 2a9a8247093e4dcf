"""What the network looked at: Grad-CAM and integrated gradients, by captum.

Grad-CAM (Selvaraju et al., ICCV 2017) weighs the maps of a late layer by their gradient for a class; it
is coarse and shows where evidence *for* the class was found. It is taken in the form of HiResCAM (Draelos and
Carin, 2020), each cell weighed by its own gradient: the first form averages the gradient over the map, and through
GroupNorm that average all but vanishes (docs/results.md has the figures). Integrated gradients (Sundararajan et al.,
ICML 2017) follow the input from air to the image; they are fine and noisy, and their sum is the change of
the class's logit. Both describe the network, not the patient.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradientXActivation
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.views import to_input

STEPS = 32
"""Points on the path of integrated gradients."""
_FEWEST_CELLS = 6  # a side: coarser maps could not tell a vertebra from its neighbour
_BATCH = 32

Maps = NDArray[np.float32]


def grad_cam(model: nn.Module, pixels: NDArray[np.uint8], targets: NDArray[np.intp]) -> Maps:
    """Evidence for the class ``targets`` [n] in examples ``pixels`` [n, channels, size, size].

    float32 [n, size, size], not negative, in units of the logit; zero where nothing speaks for the class.
    """
    size = pixels.shape[-1]
    explainer = LayerGradientXActivation(model.eval(), cam_layer(model, size))
    parts = []
    for inputs, classes in _batches(pixels, targets):
        coarse = F.relu(explainer.attribute(inputs, target=classes).sum(dim=1, keepdim=True))
        fine = F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)
        parts.append(fine[:, 0].detach().numpy())
    return np.concatenate(parts)


def integrated_gradients(
    model: nn.Module, pixels: NDArray[np.uint8], targets: NDArray[np.intp], steps: int = STEPS
) -> Maps:
    """What each pixel adds to the logit of ``targets`` [n] against an image of air, over all channels.

    float32 [n, size, size], of either sign; each map sums to the change of the logit, up to the error of ``steps``.
    """
    explainer = IntegratedGradients(model.eval())
    parts = []
    for inputs, classes in _batches(pixels, targets):
        air = to_input(np.zeros((1, *pixels.shape[1:]), np.uint8))
        found = explainer.attribute(inputs, baselines=air, target=classes, n_steps=steps, internal_batch_size=_BATCH)
        parts.append(found.sum(dim=1).detach().float().numpy())
    return np.concatenate(parts)


def cam_layer(model: nn.Module, size: int) -> nn.Module:
    """The deepest stage of a ResNet whose maps have at least 6 cells a side for inputs of ``size`` pixels."""
    for name, stride in (("layer4", 32), ("layer3", 16), ("layer2", 8)):
        if size // stride >= _FEWEST_CELLS:
            return model.get_submodule(name)
    return model.get_submodule("layer1")


def shares(maps: Maps) -> Maps:
    """``maps`` [n, size, size] cut to what speaks for the class and divided by the largest of all; 0 to 1."""
    positive: Maps = np.maximum(maps, np.float32(0))
    largest = float(positive.max(initial=0))
    return positive / np.float32(largest) if largest > 0 else positive


def _batches(pixels: NDArray[np.uint8], targets: NDArray[np.intp]) -> list[tuple[Tensor, Tensor]]:
    return [
        (to_input(pixels[start : start + _BATCH]), torch.from_numpy(targets[start : start + _BATCH].astype(np.int64)))
        for start in range(0, len(pixels), _BATCH)
    ]
