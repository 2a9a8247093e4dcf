"""Evaluate a model on a site's held-out patients, as mergeable counts."""

from __future__ import annotations

from collections.abc import Sequence

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


def evaluate(model: nn.Module, examples: Examples, patients: Sequence[NDArray[np.intp]], study: Study) -> Counts:
    """Counts over the held-out ``patients`` (example indices of each), each of total weight one.

    Labels above slice level: the mean probability over a patient's views of one label is predicted.
    Slice labels: each slice is, and a patient's slices share its weight, since they are no independent
    cases. So a patient changes the counts by at most ``l2_sensitivity``.
    """
    classes, bins = len(study.task.classes), study.evaluation.score_bins
    if not patients:
        return Counts.zero(classes, bins)
    labels: list[int] = []
    rows: list[NDArray[np.float64]] = []
    weights: list[float] = []
    everyone = predict(model, examples, np.concatenate(list(patients)))
    ends = np.cumsum([len(indices) for indices in patients])[:-1]
    for indices, probabilities in zip(patients, np.split(everyone, ends), strict=True):
        parts = _predictions(probabilities, examples.labels[indices], study.task.label_level == "slice")
        labels += [label for label, _ in parts]
        rows += [row for _, row in parts]
        weights += [1.0 / len(parts)] * len(parts)
    return Counts.of(np.array(labels), np.stack(rows), bins, weights=np.array(weights))


def _predictions(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64], each_example: bool
) -> list[tuple[int, NDArray[np.float64]]]:
    if each_example:
        return [(int(label), row) for label, row in zip(labels, probabilities, strict=True)]
    return [(int(label), probabilities[labels == label].mean(axis=0)) for label in np.unique(labels)]
