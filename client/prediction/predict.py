"""A trained model's answer about one new CT study, and what it looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.prediction.maps import Maps, grad_cam, shares
from client.prediction.source import NewStudy
from client.training.evaluate import judge, predict
from common.models.saved import SavedModel
from common.study import Study


@dataclass(frozen=True)
class Answer:
    """What the model says.

    ``examples``: float64 [n, C], the probabilities of each class on each plane (or slice) that it was shown.
    ``values`` [C]: where the study labels slices, the share of slices on which each class is the likeliest;
    else the probability that its views have together, as in the study's own evaluation. ``maps`` [n, size, size], 0 to 1: where evidence
    was found for ``targets`` [n]: the class said, or on slices that of each slice.
    """

    classes: tuple[str, ...]
    by_slice: bool
    examples: NDArray[np.float64]
    values: NDArray[np.float64]
    targets: NDArray[np.intp]
    maps: Maps

    @property
    def said(self) -> int:
        """Index of the class with the largest value."""
        return int(self.values.argmax())


class _Shown:
    """A new study as ``client.training.views.Examples``; nobody knows its labels."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self.labels = np.full(len(pixels), -1, dtype=np.int64)

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, channels, size, size] of these examples."""
        return self._pixels[indices]


def answer(model: SavedModel, study: Study, new: NewStudy) -> Answer:
    """Ask ``model``, trained by ``study``, about ``new``."""
    pixels = new.pixels
    shown, everything = _Shown(pixels), np.arange(len(pixels))
    examples = predict(model.network, shown, everything)
    by_slice = study.task.label_level == "slice"
    likeliest = examples.argmax(axis=1)
    if by_slice:
        values = np.bincount(likeliest, minlength=examples.shape[1]) / len(examples)
        targets = likeliest
    else:
        values = judge(model.network, shown, [everything], study)[0]
        targets = np.full(len(examples), values.argmax())
    maps = shares(grad_cam(model.network, pixels, targets))
    return Answer(study.task.classes, by_slice, examples, values, targets, maps)
