"""Aggregation: one strategy a file, over flat vectors."""

from __future__ import annotations

from collections.abc import Callable

from server.aggregation import fedadam, fedavg, fedavgm
from server.aggregation.fedavg import State
from server.aggregation.mean import RunningMean, Vector

Strategy = Callable[[Vector, State, float], tuple[Vector, State]]

STRATEGIES: dict[str, Strategy] = {"fedavg": fedavg.apply, "fedavgm": fedavgm.apply, "fedadam": fedadam.apply}

__all__ = ["STRATEGIES", "RunningMean", "State", "Strategy", "Vector"]
