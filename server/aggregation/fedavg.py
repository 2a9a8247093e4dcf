"""FedAvg (McMahan et al. 2017) with uniform or public weights: the model moves by the mean update.

FedProx (Li et al. 2020) is the same at the coordinator; its pull is at the site (``client.training.drift``).
"""

from __future__ import annotations

from server.aggregation.vectors import State, Vector


def apply(mean_update: Vector, state: State, learning_rate: float) -> tuple[Vector, State]:
    """The step of the global model, in place of the mean, and the strategy's new state (none)."""
    mean_update *= mean_update.dtype.type(learning_rate)
    return mean_update, state
