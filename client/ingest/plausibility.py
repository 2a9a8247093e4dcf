"""Are the values of a volume Hounsfield units? Judged by a histogram, so it costs next to nothing.

Air is -1000 HU and water 0 by definition; what a body can't be shows a wrong slope, intercept or sign,
or values of another kind (stored values, activity, doses).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST_HU, BIN_HU, BINS = -1200, 10, 422
"""Bin 0 counts everything below LOWEST_HU (padding without its tag), bin k from LOWEST_HU + (k - 1) * BIN_HU on,
the last everything from 3000 HU on."""
AIR_BELOW, AIR_TOLERANCE = -300, 200
"""Of what lies below -300 HU the most frequent value is within 200 HU of -1000..."""
LUNG_BELOW, LUNG_AIRWAYS = -600, 0.02
"""...or, where only lung is in view, below -600 HU with at least 2 % of it below -900 HU (airways)."""
NO_AIR = 0.02
"""A volume with less than this below -300 HU is taken as cut out of a body: its air is not judged, but..."""
FAT_HU, FAT_SHARE = -10, 0.01
"""...1 % of it is below -10 HU, by fat or by noise in water."""
TISSUE, TISSUE_SHARE = (-200, 250), 0.02
"""At least 2 % lies between -300 and 600 HU, most frequently at the value of fat, water, an organ or a muscle."""
DENSE_HU, DENSE_SHARE = 600, 0.3
"""No body has more than 30 % above 600 HU..."""
DENSE_SOME, DENSE_OF_BRIGHT = 0.05, 0.85
"""...nor 5 % of the volume above 600 HU with hardly anything (15 %) between 300 and 600 HU: bone is graded."""
LEAST_SPREAD_HU = 10
"""Noise alone spreads the values (5th to 95th percentile) further."""

_CENTRES = LOWEST_HU + (np.arange(BINS) - 0.5) * BIN_HU


def count_hu(hounsfield: NDArray[np.floating] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Histogram of values of any shape: int64 [BINS]."""
    index = np.floor((np.asarray(hounsfield, dtype=np.float32).ravel() - LOWEST_HU) / BIN_HU) + 1
    return np.bincount(np.clip(index, 0, BINS - 1).astype(np.intp), minlength=BINS)


def implausible(histogram: NDArray[np.int64]) -> str | None:
    """Why the values counted in ``histogram`` [BINS] are no Hounsfield units of a body; None if they may be."""
    counts = histogram.copy()
    counts[0] = 0
    total = int(counts.sum())
    if total == 0:
        return "no values in the range of CT"
    spread = np.searchsorted(np.cumsum(counts), (0.05 * total, 0.95 * total))
    if (spread[1] - spread[0]) * BIN_HU < LEAST_SPREAD_HU:
        return f"all values near {_CENTRES[spread[0]]:.0f} HU"
    return _air(counts, total) or _dense(counts, total) or _tissue(counts, total)


def _air(counts: NDArray[np.int64], total: int) -> str | None:
    low = counts[_CENTRES < AIR_BELOW]
    if low.sum() < NO_AIR * total:
        fat = counts[_CENTRES < FAT_HU].sum()
        return None if fat >= FAT_SHARE * total else f"{fat / total:.1%} of the values below {FAT_HU} HU"
    mode = _CENTRES[int(low.argmax())]
    if abs(mode + 1000) <= AIR_TOLERANCE:
        return None
    if mode < LUNG_BELOW and counts[_CENTRES < -900].sum() >= LUNG_AIRWAYS * low.sum():
        return None
    return f"air near {mode:.0f} HU"


def _dense(counts: NDArray[np.int64], total: int) -> str | None:
    dense, bright = (int(counts[hu < _CENTRES].sum()) for hu in (DENSE_HU, 300))
    if dense > DENSE_SHARE * total or (dense > DENSE_SOME * total and dense > DENSE_OF_BRIGHT * bright):
        return f"{dense / total:.0%} of the values above {DENSE_HU} HU"
    return None


def _tissue(counts: NDArray[np.int64], total: int) -> str | None:
    between = np.where((_CENTRES > AIR_BELOW) & (_CENTRES < DENSE_HU), counts, 0)
    share = between.sum() / total
    if share < TISSUE_SHARE:
        return f"{share:.1%} of the values from {AIR_BELOW} to {DENSE_HU} HU"
    mode = _CENTRES[int(between.argmax())]
    return None if TISSUE[0] <= mode <= TISSUE[1] else f"tissue near {mode:.0f} HU"
