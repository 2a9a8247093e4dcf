"""A running mean of updates: memory does not grow with the number of sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from server.aggregation.vectors import State, Vector, check

_BLOCK = 1 << 20  # coordinates at a time
Move = Callable[[Vector, State, float], tuple[Vector, State]]
"""(mean update, state, server learning rate) -> (step of the model, new state)"""


class RunningMean:
    """Mean of float32 vectors of one length, folded in as they come.

    Every site weighs the same but for ``weights``, public numbers of the study: weights by number of patients would
    tell how many a site has. The sum is float32, one message in memory: over n updates its relative error is below
    n * 2**-24, a hundredth of the rounding of a float16 message for 100 sites.
    """

    def __init__(self, length: int, weights: Mapping[str, float] | None = None) -> None:
        self._total = np.zeros(length, dtype=np.float32)
        self._weights, self._weight = weights or {}, 0.0
        self.count = 0

    def add(self, site: str, update: Vector) -> None:
        """Fold in one update. ValueError when its shape differs or it is not finite; nothing is added then."""
        check(update, self._total.size)
        weight = self._weights.get(site, 1.0)
        if weight == 1:
            self._total += update
        else:
            for start in range(0, update.size, _BLOCK):  # weighed whole, it would be a message more in memory
                part = slice(start, start + _BLOCK)
                self._total[part] += np.float32(weight) * update[part]
        self._weight += weight
        self.count += 1

    def mean(self) -> Vector:
        """The mean, which it hands over: a second copy would be a second message in memory. ValueError when nothing was added."""
        if self.count == 0:
            raise ValueError("no update to average")
        mean, self._total = self._total, np.zeros(0, dtype=np.float32)
        mean /= np.float32(self._weight)
        return mean


class MeanAggregate:
    """Moves the model by ``move`` of the mean update."""

    def __init__(self, mean: RunningMean, move: Move, state: State, learning_rate: float) -> None:
        self._mean, self._move, self._state, self._rate = mean, move, state, learning_rate

    @property
    def count(self) -> int:
        """How many updates were taken."""
        return self._mean.count

    def add(self, site: str, update: Vector) -> None:
        """Fold in one update; see ``RunningMean.add``."""
        self._mean.add(site, update)

    def step(self) -> tuple[Vector, State]:
        """The step of the model and the strategy's new state."""
        return self._move(self._mean.mean(), self._state, self._rate)

    def correction(self, site: str) -> None:
        """Sites correct nothing."""

    def close(self) -> None:
        """Nothing is on disk."""
