"""FedYogi (Reddi et al. 2021, Algorithm 2): FedAdam whose second moment moves by the sign of its error.

So it forgets a large update slowly and never overshoots. Constants and start as in ``fedadam``.
"""

from __future__ import annotations

import numpy as np

from server.aggregation.fedadam import BETA1, BETA2, TAU
from server.aggregation.vectors import State, Vector


def apply(mean_update: Vector, state: State, learning_rate: float) -> tuple[Vector, State]:
    """The step of the global model and the new moments."""
    square = mean_update**2
    before = state.get("second", TAU * TAU)
    first = BETA1 * state.get("first", np.float32(0)) + (np.float32(1) - BETA1) * mean_update
    second = before - (np.float32(1) - BETA2) * square * np.sign(before - square)
    step = np.float32(learning_rate) * first / (np.sqrt(second) + TAU)
    return step.astype(np.float32), {"first": first, "second": second}
