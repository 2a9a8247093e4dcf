"""FedAvgM (Hsu et al. 2019): the mean update with server momentum 0.9."""

from __future__ import annotations

import numpy as np

from server.aggregation.vectors import State, Vector

MOMENTUM = np.float32(0.9)


def apply(mean_update: Vector, state: State, learning_rate: float) -> tuple[Vector, State]:
    """The step of the global model and the new velocity."""
    velocity = mean_update + MOMENTUM * state.get("velocity", np.float32(0))
    return velocity * np.float32(learning_rate), {"velocity": velocity}
