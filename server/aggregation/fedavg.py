"""FedAvg (McMahan et al. 2017) with uniform weights: the model moves by the mean update."""

from __future__ import annotations

from server.aggregation.mean import Vector

State = dict[str, Vector]


def apply(mean_update: Vector, state: State, learning_rate: float) -> tuple[Vector, State]:
    """The step of the global model and the strategy's new state (none)."""
    return mean_update * mean_update.dtype.type(learning_rate), state
