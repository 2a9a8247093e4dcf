"""A running mean of updates: memory does not grow with the number of sites."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


class RunningMean:
    """Uniform mean of float32 vectors of one length, folded in as they come.

    Every site weighs the same: weights by number of patients would tell how many a site has.
    """

    def __init__(self, length: int) -> None:
        self._total = np.zeros(length, dtype=np.float64)
        self.count = 0

    def add(self, update: Vector) -> None:
        """Fold in one update. ValueError when its shape differs or it is not finite; nothing is added then."""
        if update.shape != self._total.shape or update.dtype != np.float32:
            raise ValueError(f"update is {update.dtype} {update.shape}; expected float32 {self._total.shape}")
        if not np.isfinite(update).all():
            raise ValueError("update is not finite")
        self._total += update
        self.count += 1

    def mean(self) -> Vector:
        """The mean so far. ValueError when nothing was added."""
        if self.count == 0:
            raise ValueError("no update to average")
        return (self._total / self.count).astype(np.float32)
