"""Heads that decide about a patient from the features of all views that are shown of it.

Both take features [views, patients, features] and give logits [patients, classes]; features [patients, features] are
one view a patient. A patient's logits depend on its own views alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

ATTENTION = 128
"""Width of the hidden layer that scores a view."""
STATE = 128
"""Width of the state that goes from view to view."""


class AttentionHead(nn.Module):
    """Mean of the views' features, weighed by a small network of each view alone (Ilse et al., ICML 2018, equation 8).

    The order of views does not matter. It is made of Linear layers, so that a private step can clip it.
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, ATTENTION)
        self.score = nn.Linear(ATTENTION, 1, bias=False)  # a bias would cancel in the softmax
        self.classify = nn.Linear(features, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [patients, classes]."""
        views = features if features.dim() == 3 else features[None]
        scores = self.score(torch.tanh(self.hidden(views.flatten(0, 1)))).view(views.shape[0], views.shape[1], 1)
        logits: Tensor = self.classify((torch.softmax(scores, dim=0) * views).sum(dim=0))
        return logits


class RecurrentHead(nn.Module):
    """A gated recurrent unit (Cho et al. 2014) that reads the views from first to last slice; its last state decides."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.read = nn.GRU(features, STATE)
        self.classify = nn.Linear(STATE, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [patients, classes]."""
        _, last = self.read(features if features.dim() == 3 else features[None])
        logits: Tensor = self.classify(last[0])
        return logits
