"""What m canaries prove about epsilon: lower bounds from one run, as pure functions.

The game: each of ``canaries`` records is in the training data with probability 1/2, independently. Who
sees everything that was released says of ``made`` of them, fixed beforehand, whether they were in;
``right`` of these guesses are right. A mechanism that keeps its claim does not let so many be right too often.

*Steinke, Nasr and Jagielski (2023), "Privacy auditing with one (1) training run", Theorem 5.2*: under
(epsilon, delta) the guesses are hardly better than coins that fall right with chance e^eps / (1 + e^eps);
``steinke_p_value`` is the chance of ``right`` or more.

*Mahloujifar, Melis and Chaudhuri (2025), "Auditing f-differential privacy in one run"*: uses the whole
trade-off curve in place of one pair of numbers. With p_i the chance of i right guesses out of r = made, and
F(x) = 1 - f(x), concave, the most that an event of chance x can weigh on a neighbouring cohort, flipping one canary gives for
every c: sum_{i >= c} (i / m) p_i <= F(sum_{i >= c - 1} ((r - i) / m) p_i). The left side is the chance that a
canary chosen at random is guessed rightly while c or more are right; the flip makes this guess wrong and leaves
the others. ``f_dp_possible`` asks whether any distribution with P[right or more] = the level obeys all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.05  # a bound may be above the truth with at most this chance
_STEPS = 40  # halvings of an interval that a search makes
_LARGEST = 200.0  # no search goes beyond this epsilon


@dataclass(frozen=True)
class Guesses:
    """``right`` of ``made`` guesses about ``canaries``; ValueError unless 0 <= right <= made <= canaries, made >= 1."""

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries or self.made < 1:
            raise ValueError(f"{self}: expected 0 <= right <= made <= canaries, and made >= 1")


def steinke_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The most that the chance of so many right guesses can be under (``epsilon``, ``delta``)."""
    m, r, v = guesses.canaries, guesses.made, guesses.right
    coins = stats.binom(r, 1 / (1 + math.exp(-epsilon)))
    tail = float(coins.sf(v - 1))
    below = np.cumsum(coins.pmf(np.arange(v - 1, -1, -1)))  # chance of v - i .. v - 1, for i from 1
    steepest = float(np.max(below / np.arange(1, v + 1), initial=0.0))
    return min(1.0, tail + 2 * m * delta * steepest)


def steinke_epsilon(guesses: Guesses, delta: float, level: float = LEVEL) -> float:
    """The largest epsilon that the guesses refute at ``delta`` with confidence 1 - ``level``; 0.0 for none."""
    low, high = 0.0, 1.0
    if steinke_p_value(guesses, low, delta) > level:
        return 0.0
    while steinke_p_value(guesses, high, delta) <= level:
        if high > _LARGEST:
            return high
        low, high = high, 2 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if steinke_p_value(guesses, middle, delta) <= level:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class TradeOff:
    """A trade-off curve by points of the privacy curve: (``epsilons[i]``, ``deltas[i]``) holds for each i.

    An event of chance x has at most chance ``most(x)`` = 1 - f(x) on a neighbouring cohort. A finite set
    of points can only make it larger, so that bounds stay valid.
    """

    epsilons: NDArray[np.float64]
    deltas: NDArray[np.float64]

    def most(self, chance: float) -> float:
        """The largest chance on a neighbouring cohort, of an event with chance ``chance``."""
        growth = np.exp(self.epsilons)
        lines = np.minimum(self.deltas + growth * chance, 1 - (1 - self.deltas - chance) / growth)
        return float(min(1.0, max(chance, float(lines.min()))))

    def least(self, chance: float) -> float:
        """The smallest chance that an event can have, if it has ``chance`` on a neighbouring cohort."""
        growth = np.exp(self.epsilons)
        lines = np.maximum((chance - self.deltas) / growth, 1 - self.deltas - growth * (1 - chance))
        return max(0.0, float(lines.max()))


def f_dp_possible(guesses: Guesses, curve: TradeOff, level: float = LEVEL) -> bool:
    """Whether a mechanism with this curve can have ``right`` or more right guesses with chance ``level``.

    Down from c = right, each inequality asks for some more chance of exactly c - 1; to give it as late and as little as
    can be is best, since a later one weighs more on the right side and less on the left. If all of
    it together exceeds 1, there is no such distribution. False means: refuted with confidence 1 - ``level``.
    """
    m, r, v = guesses.canaries, guesses.made, guesses.right
    hits, misses = level * v / m, level * (r - v) / m
    for c in range(v, 0, -1):
        needed = curve.least(hits)
        if needed > misses:
            hits += (c - 1) / (r - c + 1) * (needed - misses)
            misses = needed
        if hits + misses > r / m * (1 + 1e-12):
            return False
    return True
