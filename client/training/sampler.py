"""Which patients a step uses.

With privacy: Poisson sampling at the study's public rate, each patient independently, drawn from
operating-system entropy; no seed reaches it, and a draw may be empty. Without privacy: fixed-size
draws without replacement from the experiment's generator.
"""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray


def secret_generator() -> np.random.Generator:
    """A generator seeded with 256 bits from the operating system; two calls never agree."""
    return np.random.default_rng(secrets.randbits(256))


def poisson_draw(patients: int, rate: float, generator: np.random.Generator) -> NDArray[np.intp]:
    """Indices of the patients drawn, each with probability ``rate`` (1 draws all)."""
    if not 0 < rate <= 1:
        raise ValueError(f"rate {rate} is not in (0, 1]")
    return np.flatnonzero(generator.random(patients) < rate)


def fixed_draw(patients: int, size: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """``size`` distinct patients, or all of them when there are fewer."""
    return generator.permutation(patients)[:size]
