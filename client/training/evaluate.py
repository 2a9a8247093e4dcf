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
from common.models.resnet import Network
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


def judge(model: Network, examples: Examples, groups: Sequence[NDArray[np.intp]], study: Study) -> NDArray[np.float64]:
    """Class probabilities [groups, classes] of each group of examples (one or more), decided as the study says.

    Where it does not learn to: the mean of their probabilities, or of each class the largest, scaled to add up to 1.
    """
    if study.pools:
        return np.stack([_pooled(model, examples, indices) for indices in groups])
    everyone = predict(model, examples, np.concatenate(list(groups)))
    parts = np.split(everyone, np.cumsum([len(indices) for indices in groups])[:-1])
    if study.model.pooling == "max":
        return np.stack([part.max(axis=0) / part.max(axis=0).sum() for part in parts])
    return np.stack([part.mean(axis=0) for part in parts])


@torch.inference_mode()
def _pooled(model: Network, examples: Examples, indices: NDArray[np.intp]) -> NDArray[np.float64]:
    """Class probabilities [classes] of one patient, all of whose views the head sees together."""
    model.eval()
    parts = [model.features(to_input(examples.pixels(indices[i : i + BATCH]))) for i in range(0, len(indices), BATCH)]
    logits = model.fc(torch.cat(parts)[:, None])
    probabilities: NDArray[np.float64] = torch.softmax(logits[0].double(), dim=0).numpy()
    return probabilities


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

    def confusions(self, bands: NDArray[np.uint8], count: int) -> NDArray[np.float64]:
        """Confusion matrices [count, C, C] of the patients in each band. ``bands``: of each patient asked about.

        A patient is in one band, and changes them by a total of 1.
        """
        classes = self.probabilities.shape[1]
        found = np.zeros((count, classes, classes))
        if len(self.patients):
            said = self.probabilities.argmax(axis=1)
            np.add.at(found, (bands[self.patients], self.labels, said), self.weights)
        return found


def decide(model: Network, examples: Examples, patients: Sequence[NDArray[np.intp]], study: Study) -> Decisions:
    """What the model says of ``patients`` (example indices of each).

    Labels above slice level: a patient's views of one label are judged together.
    Slice labels: each slice is, and a patient's slices share its weight, since they are no independent cases.
    """
    if not patients:
        none = np.zeros(0, dtype=np.int64)
        return Decisions(none, none, np.zeros((0, len(study.task.classes))))
    parts = [_groups(indices, examples.labels[indices], study.task.label_level == "slice") for indices in patients]
    groups = [group for part in parts for group in part]
    owners = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    labels = examples.labels[np.array([group[0] for group in groups])]
    return Decisions(owners, labels, judge(model, examples, groups, study))


def evaluate(model: Network, examples: Examples, patients: Sequence[NDArray[np.intp]], study: Study) -> Counts:
    """Counts over the held-out ``patients`` (example indices of each), each of total weight one."""
    return decide(model, examples, patients, study).counts(study.evaluation.score_bins)


def _groups(indices: NDArray[np.intp], labels: NDArray[np.int64], each_example: bool) -> list[NDArray[np.intp]]:
    """A patient's examples, as they are judged together: of one label, by label."""
    if each_example:
        return list(indices[:, None])
    return [indices[labels == label] for label in np.unique(labels)]
