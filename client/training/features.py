"""What the head sees of the examples, made once a round where the head alone is trained.

The rest of the network is frozen then, and without augmentation an example always looks the same: its
features may be kept for all steps and views of a round. They are made when an example is first drawn,
so a round costs no more than without, and they are gone with the round.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.views import Examples, to_input
from common.models.resnet import HEAD, Network
from common.study import Study

KEPT_BYTES = 1 << 30
"""Memory that features may take, beside those of one step; beyond it they are made anew."""
_BATCH = 64


def head_alone(model: nn.Module, study: Study) -> bool:
    """Whether ``Features`` and the head take the same steps as ``model``."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    return not study.training.augment and bool(trained) and all(name.startswith(HEAD) for name in trained)


class Features:
    """Inputs of ``model``'s head, [n, features] of n examples; equal to what the model makes of them."""

    def __init__(self, model: Network, examples: Examples) -> None:
        self._model, self._examples = model, examples
        self._width = model.avgpool.centre.numel()
        self._kept: dict[int, Tensor] = {}

    def __call__(self, indices: NDArray[np.intp]) -> Tensor:
        """Features of these examples (possibly none)."""
        wanted = indices.tolist()
        missing = np.array([i for i in dict.fromkeys(wanted) if i not in self._kept], dtype=np.intp)
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            self._kept.update(zip(some.tolist(), self._made(some), strict=True))
        found = torch.stack([self._kept[i] for i in wanted]) if wanted else torch.empty(0, self._width)
        if len(self._kept) * found.element_size() * self._width > KEPT_BYTES:
            self._kept.clear()
        return found

    @torch.no_grad()
    def _made(self, indices: NDArray[np.intp]) -> Tensor:
        return self._model.features(to_input(self._examples.pixels(indices)))
