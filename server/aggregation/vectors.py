"""What every strategy works on: float32 vectors of one length, one a site."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
State = dict[str, Vector]
"""What a strategy carries from round to round; it goes into checkpoints."""


def check(update: Vector, length: int) -> None:
    """ValueError unless ``update`` is a finite float32 vector of this length."""
    if update.shape != (length,) or update.dtype != np.float32:
        raise ValueError(f"update is {update.dtype} {update.shape}; expected float32 ({length},)")
    if not np.isfinite(update).all():
        raise ValueError("update is not finite")


class Aggregate(Protocol):
    """The updates of one round, taken as they come; whoever starts one closes it."""

    @property
    def count(self) -> int:
        """How many updates were taken."""

    def add(self, site: str, update: Vector) -> None:
        """Take one site's update. ValueError as ``check`` raises it; nothing is taken then."""

    def step(self) -> tuple[Vector, State]:
        """By what the shared weights move, and the strategy's new state. ValueError when nothing was taken."""

    def correction(self, site: str) -> Vector | None:
        """What ``site`` is to add to each of its gradients; None for nothing."""

    def close(self) -> None:
        """Remove what the round left on disk."""
