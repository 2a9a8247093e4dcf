"""What each site's update did to a round: the round's mean update against the mean without that site.

For update u_i of weight w_i, with the mean m of all and m_(-i) of all but i:

- *agreement* = cos(u_i, m_(-i)), -1 to 1: whether the site pulls where the others do. It approximates the site's
  Shapley value of the round (Xu et al., "Gradient-driven rewards to guarantee fairness", NeurIPS 2021);
- *shift* = |m - m_(-i)| / |m|, 0 or more: how far the round's mean would have lain elsewhere without the site.

Leaving a site out of N needs N means, which a coordinator that keeps no update can't hold. Both figures are made of
inner products, and those survive a count sketch (Charikar et al. 2002): each weight is added, with a random sign, to
one of ``BUCKETS`` sums. Inner products of sketches are unbiased, with a standard deviation of about
sqrt(2 / BUCKETS) |a| |b|, below 0.006; 256 kB a site whatever the model. Where weights are fewer than buckets they are kept
as they are, and the figures are exact.

Privacy: a function of updates that were released already (post-processing), so nothing is charged. Under differential
privacy they are mostly noise, and agreement is near 0 however alike the hospitals are. Without it, the figures of a
round are one more view of what the updates show.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from server.aggregation import Aggregate, State, Vector
from server.results import Contribution

BUCKETS = 1 << 16
BLOCK = 1 << 20  # weights at a time


class Sketches:
    """Sketches of the updates of one round, of ``length`` weights each. ``seed``: for tests; else nobody knows it."""

    def __init__(self, length: int, weights: Mapping[str, float] | None = None, seed: int | None = None) -> None:
        self._length, self._weights = length, weights or {}
        self._seed = secrets.randbits(128) if seed is None else seed
        self._rows: dict[str, NDArray[np.float32]] = {}

    def add(self, site: str, update: Vector) -> None:
        """Keep the sketch of one update."""
        self._rows[site] = update.copy() if self._length <= BUCKETS else self._sketch(update)

    def contributions(self) -> dict[str, Contribution]:
        """By site; of a round with one site, nothing."""
        names = sorted(self._rows)
        weights = np.array([self._weights.get(name, 1.0) for name in names])
        if len(names) < 2:
            return {}
        total = sum(
            (w * self._rows[name].astype(np.float64) for w, name in zip(weights, names, strict=True)), start=0.0
        )
        mean, found = total / weights.sum(), {}
        for weight, name in zip(weights, names, strict=True):
            own = self._rows[name].astype(np.float64)
            others = (total - weight * own) / (weights.sum() - weight)
            length = float(np.linalg.norm(mean))
            found[name] = Contribution(
                agreement=_cosine(own, others),
                shift=float(np.linalg.norm(mean - others)) / length if length > 0 else None,
            )
        return found

    def _sketch(self, update: Vector) -> NDArray[np.float32]:
        sketch = np.zeros(BUCKETS)
        for values, bits in zip(_blocks(update), self._bits(), strict=False):
            signed = np.where(bits & 1, values, -values)
            sketch += np.bincount((bits >> 1) % BUCKETS, weights=signed, minlength=BUCKETS)
        return sketch.astype(np.float32)

    def _bits(self) -> Iterator[NDArray[np.uint32]]:
        """For each block the same random bits each time: one for the sign, sixteen for the bucket."""
        rng = np.random.Generator(np.random.SFC64(self._seed))
        for start in range(0, self._length, BLOCK):
            yield rng.integers(0, 1 << 32, size=min(BLOCK, self._length - start), dtype=np.uint32)


class Watched:
    """An aggregate whose updates are sketched as they come."""

    def __init__(self, aggregate: Aggregate, sketches: Sketches) -> None:
        self._aggregate, self._sketches = aggregate, sketches

    @property
    def count(self) -> int:
        """How many updates were taken."""
        return self._aggregate.count

    def add(self, site: str, update: Vector) -> None:
        """Take one update; one that the aggregate refuses leaves no sketch."""
        self._aggregate.add(site, update)
        self._sketches.add(site, update)

    def step(self) -> tuple[Vector, State]:
        """The aggregate's."""
        return self._aggregate.step()

    def correction(self, site: str) -> Vector | None:
        """The aggregate's."""
        return self._aggregate.correction(site)

    def close(self) -> None:
        """The aggregate's."""
        self._aggregate.close()


def _blocks(update: Vector) -> Iterator[Vector]:
    for start in range(0, update.size, BLOCK):
        yield update[start : start + BLOCK]


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    lengths = float(np.linalg.norm(one)) * float(np.linalg.norm(other))
    return min(1.0, max(-1.0, float(one @ other) / lengths)) if lengths > 0 else None
