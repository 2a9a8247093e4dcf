"""FedAdam (Reddi et al. 2021, Algorithm 2): Adam on the mean update, without bias correction.

beta1 0.9, beta2 0.99 and tau 1e-3 as in the paper's experiments.
"""

from __future__ import annotations

import numpy as np

from server.aggregation.vectors import State, Vector

BETA1, BETA2, TAU = np.float32(0.9), np.float32(0.99), np.float32(1e-3)


def apply(mean_update: Vector, state: State, learning_rate: float) -> tuple[Vector, State]:
    """The step of the global model and the new moments."""
    first = BETA1 * state.get("first", np.float32(0)) + (np.float32(1) - BETA1) * mean_update
    second = BETA2 * state.get("second", TAU * TAU) + (np.float32(1) - BETA2) * mean_update**2
    step = np.float32(learning_rate) * first / (np.sqrt(second) + TAU)
    return step.astype(np.float32), {"first": first, "second": second}
