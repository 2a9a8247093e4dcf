"""Implicit surfaces: approximate signed distances in mm, negative inside, on broadcastable fields.

An edge is drawn by ``cover``: the share of a voxel that lies inside, linear over one voxel width.
That is the partial-volume effect itself, so nothing needs to be drawn finer than the scanner samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Points = tuple[Field, Field, Field]
Vector = tuple[float, float, float]


def cover(distance: Field, width: float) -> Field:
    """Share inside, 0 to 1, of a voxel ``width`` mm across whose centre is ``distance`` mm from the edge."""
    share: Field = np.clip(0.5 - distance * np.float32(1.0 / width), 0.0, 1.0)
    return share


def smooth_min(first: Field, second: Field, blend: float) -> Field:
    """Union of two shapes with a fillet about ``blend`` mm wide (polynomial smooth minimum)."""
    near = np.maximum(np.float32(blend) - np.abs(first - second), np.float32(0))
    joined: Field = np.minimum(first, second) - near * near * np.float32(0.25 / blend)
    return joined


def smooth_max(first: Field, second: Field, blend: float) -> Field:
    """Intersection of two shapes with a rounded edge."""
    return -smooth_min(-first, -second, blend)


def bell(value: Field, centre: float, width: float) -> Field:
    """Gaussian bump of height 1 and standard deviation ``width``."""
    bump: Field = np.exp(np.float32(-0.5 / width**2) * (value - np.float32(centre)) ** 2)
    return bump


def ellipsoid(points: Points, centre: Vector, radii: Vector) -> Field:
    """Ellipsoid; the distance is exact only on the surface and scaled by the smallest radius."""
    scaled = [(p - np.float32(c)) * np.float32(1 / r) for p, c, r in zip(points, centre, radii, strict=True)]
    radius: Field = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    return (radius - np.float32(1)) * np.float32(min(radii))


def capsule(points: Points, start: Vector, end: Vector, radius: float, stretch: Vector = (1.0, 1.0, 1.0)) -> Field:
    """A rod from ``start`` to ``end``. ``stretch`` scales its cross-section along each axis (3: three times as wide)."""
    scale = [np.float32(1 / s) for s in stretch]
    axis = [np.float32(e - s) * k for s, e, k in zip(start, end, scale, strict=True)]
    offset = [(p - np.float32(s)) * k for p, s, k in zip(points, start, scale, strict=True)]
    length = max(float(axis[0] ** 2 + axis[1] ** 2 + axis[2] ** 2), 1e-6)
    along = offset[0] * axis[0] + offset[1] * axis[1] + offset[2] * axis[2]
    along = np.clip(along * np.float32(1 / length), 0.0, 1.0)
    gap = [o - along * a for o, a in zip(offset, axis, strict=True)]
    away: Field = np.sqrt(gap[0] ** 2 + gap[1] ** 2 + gap[2] ** 2)
    return away - np.float32(radius)
