"""Denoising and normalisation that a study may ask for; scipy and scikit-image do the work.

scikit-image is imported where it is used: it takes long, and most studies use none.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Denoise = Literal["none", "median", "non-local-means"]
Normalise = Literal["none", "z-score", "clahe"]
DEVIATIONS = 3.0
"""z-score: the ends of the range are this many standard deviations from the mean."""
NLM_RANGE_HU = 2000.0
"""Non-local means sees HU clipped to +-this: metal would otherwise make everything else look alike."""


def denoise(plane: NDArray[np.float32], how: Denoise) -> NDArray[np.float32]:
    """``plane`` [rows, columns] in HU, smoothed: by the median of 3 x 3 pixels, or by non-local means.

    Non-local means (Buades, Coll and Morel 2005, as scikit-image has it) compares patches of 5 x 5 pixels
    within 6 pixels, with the noise that ``noise_hu`` finds.
    """
    if how == "median":
        return np.asarray(ndimage.median_filter(plane, size=3, mode="nearest"), dtype=np.float32)
    if how == "non-local-means":
        from skimage.restoration import denoise_nl_means

        clipped = np.clip(plane, -NLM_RANGE_HU, NLM_RANGE_HU)
        sigma = noise_hu(clipped)
        if sigma == 0:
            return plane
        smooth = denoise_nl_means(clipped, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True)
        return np.where(np.abs(plane) <= NLM_RANGE_HU, smooth, plane).astype(np.float32)
    return plane


def noise_hu(plane: NDArray[np.float32]) -> float:
    """Standard deviation of the noise of ``plane`` [rows, columns] in its own unit; 0 for one without any.

    The median of the diagonal Haar details over 0.6745 (Donoho and Johnstone 1994, section 4.2), where they
    are not 0: padding and clipped air say nothing. Sides of odd length lose their last row or column.
    """
    even = plane[: plane.shape[0] // 2 * 2, : plane.shape[1] // 2 * 2]
    detail = np.abs(even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]) / 2
    told = detail[detail > 0]
    return float(np.median(told)) / 0.6745 if told.size else 0.0


def normalise(share: NDArray[np.float32], how: Normalise) -> NDArray[np.float32]:
    """``share`` [rows, columns], a windowed plane from 0 to 1, with its own contrast evened out; 0 to 1 again.

    ``z-score`` takes the mean to 0.5 and DEVIATIONS standard deviations to 0 and 1; a flat plane becomes 0.5.
    ``clahe`` equalises the histogram of tiles of an eighth of the side, contrast-limited (Zuiderveld 1994),
    and leaves a flat plane as it is.
    """
    if how == "z-score":
        deviation = float(share.std(dtype=np.float64))
        if deviation < 1e-6:
            return np.full_like(share, 0.5)
        even: NDArray[np.float64] = 0.5 + (share - share.mean(dtype=np.float64)) / (2 * DEVIATIONS * deviation)
        return np.asarray(np.clip(even, 0, 1), dtype=np.float32)
    if how == "clahe" and share.min() < share.max():
        from skimage.exposure import equalize_adapthist

        return np.asarray(equalize_adapthist(share), dtype=np.float32)
    return share
