"""Which patients a step uses.

With privacy: Poisson sampling at the study's public rate, each patient on its own, from a stream that
no seed reaches; a draw may be empty. Without privacy: draws of fixed size from a seeded stream.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from client.training.randomness import Keystream


def poisson_draw(patients: int, rate: float, stream: Keystream) -> NDArray[np.intp]:
    """Indices of the patients drawn, each with probability ``rate`` to within 2**-53 (1 draws all)."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate {rate} is not in (0, 1]")
    return np.flatnonzero(stream.uniform(patients) < rate)


def fixed_draw(patients: int, size: int, stream: Keystream) -> NDArray[np.intp]:
    """``size`` distinct patients, or all of them when there are fewer."""
    return stream.sample(patients, size)
