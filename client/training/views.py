"""From cohort pixels to network input: which views of a patient, and how they are varied."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from common.study import NEIGHBOURS

# Public constants: no mean or deviation is taken from private data.
MEAN, SCALE = 0.5, 0.25
ROTATION_DEG, SHIFT, ZOOM, GAIN, OFFSET = 8.0, 0.08, 0.10, 0.10, 0.05


def draw_views(patients: Sequence[NDArray[np.intp]], views: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Example indices [len(patients) * views], ``views`` for each patient in turn.

    Without replacement while the patient has enough examples, so every patient counts the same.
    """
    chosen = [generator.choice(p, size=views, replace=len(p) < views) for p in patients]
    return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.intp)


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, channels, size, size] to float32, centred with public constants."""
    return (torch.from_numpy(pixels).float() / 255.0 - MEAN) / SCALE


def augment(batch: Tensor, view: str, generator: torch.Generator) -> Tensor:
    """Vary each example on its own: small rotation, shift, zoom, brightness, and a left-right mirror.

    The mirror of a sagittal stack is the reversed order of its neighbours; of axial and coronal
    views, the flipped columns. An empty batch stays empty.
    """
    n = len(batch)
    if n == 0:
        return batch

    def uniform(spread: float) -> Tensor:
        return (torch.rand(n, generator=generator) * 2 - 1) * spread

    angle, zoom = uniform(math.radians(ROTATION_DEG)), 1 + uniform(ZOOM)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [torch.stack([cos, -sin, uniform(2 * SHIFT)], 1), torch.stack([sin, cos, uniform(2 * SHIFT)], 1)], 1
    )
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    moved = moved * (1 + uniform(GAIN)).view(n, 1, 1, 1) + uniform(OFFSET / SCALE).view(n, 1, 1, 1)
    mirror = torch.rand(n, generator=generator) < 0.5
    return torch.where(mirror.view(n, 1, 1, 1), _mirrored(moved, view), moved)


def _mirrored(batch: Tensor, view: str) -> Tensor:
    if view != "sagittal":
        return batch.flip(-1)
    n, channels, height, width = batch.shape
    stacks = batch.view(n, channels // NEIGHBOURS, NEIGHBOURS, height, width)
    return stacks.flip(2).view(n, channels, height, width)
