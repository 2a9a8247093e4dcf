"""Evaluate a model on a site's held-out patients, as mergeable counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from client.training.views import Examples, to_input
from common.metrics import Counts
from common.study import Study

BATCH = 64


@torch.inference_mode()
def predict(model: nn.Module, examples: Examples, indices: NDArray[np.intp]) -> NDArray[np.float64]:
    """Class probabilities [n, classes] of these examples (at least one)."""
    model.eval()
    parts = [
        torch.softmax(model(to_input(examples.pixels(indices[i : i + BATCH]))).double(), dim=1).numpy()
        for i in range(0, len(indices), BATCH)
    ]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Decisions:
    """What a model says of patients: n predictions, one or more a patient. It must not leave the site.

    ``patients`` int64 [n]: the place of each one's patient among those asked about. ``labels`` int64 [n].
    ``probabilities`` float64 [n, classes].
    """

    patients: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Float64 [n], 1 / k for each of a patient's k predictions: a patient has a total weight of one."""
        weights: NDArray[np.float64] = 1.0 / np.bincount(self.patients)[self.patients]
        return weights

    def counts(self, bins: int) -> Counts:
        """The mergeable counts, with ``bins`` bins a histogram. A patient changes them by at most ``l2_sensitivity``."""
        if not len(self.patients):
            return Counts.zero(self.probabilities.shape[1], bins)
        return Counts.of(self.labels, self.probabilities, bins, weights=self.weights)


def decide(model: nn.Module, examples: Examples, patients: Sequence[NDArray[np.intp]], study: Study) -> Decisions:
    """What the model says of ``patients`` (example indices of each).

    Labels above slice level: the mean probability over a patient's views of one label is predicted.
    Slice labels: each slice is, and a patient's slices share its weight, since they are no independent cases.
    """
    if not patients:
        none = np.zeros(0, dtype=np.int64)
        return Decisions(none, none, np.zeros((0, len(study.task.classes))))
    owners: list[int] = []
    labels: list[int] = []
    rows: list[NDArray[np.float64]] = []
    everyone = predict(model, examples, np.concatenate(list(patients)))
    ends = np.cumsum([len(indices) for indices in patients])[:-1]
    for place, (indices, probabilities) in enumerate(zip(patients, np.split(everyone, ends), strict=True)):
        parts = _predictions(probabilities, examples.labels[indices], study.task.label_level == "slice")
        owners += [place] * len(parts)
        labels += [label for label, _ in parts]
        rows += [row for _, row in parts]
    return Decisions(np.array(owners), np.array(labels), np.stack(rows))


def evaluate(model: nn.Module, examples: Examples, patients: Sequence[NDArray[np.intp]], study: Study) -> Counts:
    """Counts over the held-out ``patients`` (example indices of each), each of total weight one."""
    return decide(model, examples, patients, study).counts(study.evaluation.score_bins)


def _predictions(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], each_example: bool
) -> list[tuple[int, NDArray[np.float64]]]:
    if each_example:
        return [(int(label), row) for label, row in zip(labels, probabilities, strict=True)]
    return [(int(label), probabilities[labels == label].mean(axis=0)) for label in np.unique(labels)]
