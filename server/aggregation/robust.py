"""Means that some lying sites can't move far: median, trimmed mean, Multi-Krum.

Flower's own strategies hold every update in memory; here the arithmetic runs over blocks of columns, with numpy's
median and Flower's trimmed mean. Flower's Multi-Krum needs all vectors at once and sums squares in float32, so its
distances are made anew, in float64.

What goes up is what FedAvg needs, and so is its cost in privacy: the coordinator chooses among updates that were
released already. Under differential privacy each update is mostly noise, which hides a small lie as well.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from numpy.typing import NDArray

from server.aggregation.spool import Block, Spool
from server.aggregation.vectors import Vector


def median(spool: Spool) -> Vector:
    """Median of each coordinate (Yin et al. 2018). Fewer than half of the sites can't take it out of the range of the others."""
    return spool.reduced(partial(np.median, axis=0))


def trimmed_mean(spool: Spool, trim: float) -> Vector:
    """Mean of each coordinate without the int(trim * n) highest and lowest (Yin et al. 2018).

    As many liars can't take it out of the range of the others.
    """
    return spool.reduced(lambda block: trim_mean(block, trim))


def multi_krum(spool: Spool, liars: int) -> Vector:
    """Mean of the n - f - 2 updates that lie nearest to their n - f - 2 nearest (Blanchard et al. 2017).

    f = ``liars``; so many updates may be chosen by Damaskinos et al. 2019, for n >= 2 f + 3. ValueError for fewer.
    """
    if spool.count < 2 * liars + 3:
        raise ValueError(f"{spool.count} updates; Multi-Krum with {liars} liars needs {2 * liars + 3}")
    chosen = nearest(distances(spool), liars)
    return spool.reduced(lambda block: block[chosen].mean(axis=0, dtype=np.float32))


def distances(spool: Spool) -> NDArray[np.float64]:
    """Squared L2 distances of all pairs of updates [n, n]."""
    gram = np.zeros((spool.count, spool.count))
    for _, block in spool.blocks():
        gram += _gram(block)
    norms = np.diag(gram)
    squared: NDArray[np.float64] = np.maximum(norms[:, None] + norms[None, :] - 2 * gram, 0)
    return squared


def nearest(squared: NDArray[np.float64], liars: int) -> NDArray[np.intp]:
    """Which n - f - 2 updates have the smallest sum of squared distances to their n - f - 2 nearest others."""
    n = len(squared)
    others = squared + np.diag(np.full(n, np.inf))
    scores = np.sort(others, axis=1)[:, : n - liars - 2].sum(axis=1)
    return np.argsort(scores, kind="stable")[: n - liars - 2]


def _gram(block: Block) -> NDArray[np.float64]:
    wide = block.astype(np.float64)
    return wide @ wide.T
