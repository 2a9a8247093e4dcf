"""From cohort pixels to network input: which views of a patient, and how they are varied.

Each patient has a stream of its own, which follows from the secret of the round and the patient's first
example: not from its place in the cohort, nor from who else is in it. So one patient more leaves the
views of all others as they were, and a private step's sum moves by that one clipped gradient, whatever
the secret is. With one stream for all, whoever comes first would shift the others' views, and under a
known secret the sum could move by any number of clips.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from client.training.randomness import Keystream
from common.models.resnet import INPUT_MEAN, INPUT_SCALE
from common.study import NEIGHBOURS, Study

ROTATION_DEG, SHIFT, ZOOM, GAIN, OFFSET = 8.0, 0.08, 0.10, 0.10, 0.05
DRAWS = 7  # uniform numbers that vary one example: angle, zoom, two shifts, gain, offset, mirror


class Examples(Protocol):
    """What training needs of a cohort."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every example."""

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, channels, size, size] of these examples."""


Inputs = Callable[[NDArray[np.intp]], Tensor]


class Views:
    """The views of patients during one round, fresh ones each time that a patient is drawn.

    ``inputs``: what the trained network takes of some examples, by default their pixels.
    """

    def __init__(self, examples: Examples, study: Study, stream: Keystream, inputs: Inputs | None = None) -> None:
        self._examples, self._study, self._stream = examples, study, stream
        self._inputs = inputs or (lambda indices: to_input(examples.pixels(indices)))
        self._streams: dict[int, Keystream] = {}  # by first example

    def batch(self, drawn: Sequence[NDArray[np.intp]]) -> tuple[Tensor, Tensor]:
        """Inputs [n * K, ...] and labels [n * K] of n patients (their example indices).

        K is the study's ``views_per_patient``; the views of a patient stand together, as its slices lie where the
        study learns to pool them. They are distinct while the patient has K examples, so that every patient counts
        the same.
        """
        training = self._study.training
        count = training.views_per_patient
        chosen, draws = [np.empty(0, dtype=np.intp)], [np.empty((0, DRAWS))]
        for patient in drawn:
            stream = self._stream_of(patient)
            some = draw_views(patient, count, stream)
            chosen.append(np.sort(some) if self._study.pools else some)
            draws.append(stream.uniform(count * DRAWS).reshape(count, DRAWS))
        indices = np.concatenate(chosen)
        inputs = self._inputs(indices)
        if training.augment:
            inputs = augment(inputs, self._study.input.view, np.concatenate(draws))
        return inputs, torch.from_numpy(self._examples.labels[indices])

    def _stream_of(self, patient: NDArray[np.intp]) -> Keystream:
        first = int(patient[0])
        if first not in self._streams:
            self._streams[first] = self._stream.child(self._examples.pixels(patient[:1]).tobytes())
        return self._streams[first]


def draw_views(patient: NDArray[np.intp], views: int, stream: Keystream) -> NDArray[np.intp]:
    """``views`` of a patient's example indices, without replacement while there are enough."""
    if views <= len(patient):
        return patient[stream.sample(len(patient), views)]
    return patient[(stream.uniform(views) * len(patient)).astype(np.intp)]


def together(inputs: Tensor, labels: Tensor, views: int) -> tuple[Tensor, Tensor]:
    """A batch of patients with K = ``views`` rows each as [K, patients, ...], and one label a patient [patients]."""
    return inputs.view(-1, views, *inputs.shape[1:]).transpose(0, 1), labels[::views]


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [n, channels, size, size] to float32, centred with public constants."""
    return (torch.from_numpy(pixels).float() / 255.0 - INPUT_MEAN) / INPUT_SCALE


def augment(batch: Tensor, view: str, draws: NDArray[np.float64]) -> Tensor:
    """Vary each example on its own: small rotation, shift, zoom, brightness, and a left-right mirror.

    ``draws``: uniform in [0, 1), [len(batch), DRAWS]; they fix the result. The mirror of a sagittal
    stack is the reversed order of its neighbours; of axial and coronal views, the flipped columns.
    An empty batch stays empty.
    """
    n = len(batch)
    if n == 0:
        return batch
    spread = torch.from_numpy(draws * 2 - 1).float().unbind(1)
    angle, zoom = spread[0] * math.radians(ROTATION_DEG), 1 + spread[1] * ZOOM
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    across, down = spread[2] * 2 * SHIFT, spread[3] * 2 * SHIFT
    theta = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    moved = F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    gain, offset = 1 + spread[4] * GAIN, spread[5] * OFFSET / INPUT_SCALE
    moved = moved * gain.view(n, 1, 1, 1) + offset.view(n, 1, 1, 1)
    return torch.where((spread[6] < 0).view(n, 1, 1, 1), _mirrored(moved, view), moved)


def _mirrored(batch: Tensor, view: str) -> Tensor:
    if view != "sagittal":
        return batch.flip(-1)
    n, channels, height, width = batch.shape
    stacks = batch.view(n, channels // NEIGHBOURS, NEIGHBOURS, height, width)
    return stacks.flip(2).view(n, channels, height, width)
