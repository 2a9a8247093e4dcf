"""Weights as they travel: float32, or float16 with a common power of two.

A float16 message holds ``vector / 2**exponent`` rounded to nearest, with the exponent chosen so that the largest
entry lies in [2**14, 2**15): nothing overflows, and entries down to 2**-28 of the largest keep their eleven bits.
Rounding what is already noised is post-processing (Dwork and Roth 2014, proposition 2.1) and costs no privacy; the
exponent is a function of the same noised vector.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Wire = Literal["float32", "float16"]
TOP = 15  # the largest entry of a float16 message is below 2**TOP; float16 ends at 2**16
EXPONENTS = 200  # beyond those of any float32


def pack(vector: Vector, wire: Wire) -> tuple[NDArray[Any], int]:
    """The array that travels, and its exponent (0 for float32). ValueError when the vector is not finite."""
    if wire == "float32":
        return vector, 0
    largest = float(np.abs(vector).max(initial=0.0))
    if not np.isfinite(largest):
        raise ValueError("weights are not finite")
    exponent = int(np.frexp(largest)[1]) - TOP if largest else 0
    return np.ldexp(vector, -exponent).astype(np.float16), exponent


def unpack(array: NDArray[Any], exponent: int, wire: Wire, length: int) -> Vector:
    """The float32 vector that was packed, up to rounding.

    ValueError when type, shape or exponent is not what ``wire`` and ``length`` say, or an entry is not finite.
    """
    if array.dtype != np.dtype(wire) or array.shape != (length,):
        raise ValueError(f"array is {array.dtype} {array.shape}; expected {wire} ({length},)")
    if abs(exponent) > (0 if wire == "float32" else EXPONENTS):
        raise ValueError(f"exponent {exponent} does not go with {wire}")
    with np.errstate(over="ignore"):
        vector = array if wire == "float32" else np.ldexp(array.astype(np.float32), exponent)
    if not np.isfinite(vector).all():
        raise ValueError("array is not finite")
    return vector
