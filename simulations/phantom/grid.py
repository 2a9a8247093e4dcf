"""Where the voxels of a volume are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulations.phantom.implicit import Field, Points, Vector

Region = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Voxel centres. Axes of a volume are (z up, y back, x left); ``origin`` is the first voxel's (x, y, z), mm."""

    origin: tuple[float, float, float]
    pixel: float
    step: float
    columns: int
    slices: int

    @property
    def x(self) -> Field:
        return (self.origin[0] + self.pixel * np.arange(self.columns)).astype(np.float32)

    @property
    def y(self) -> Field:
        return (self.origin[1] + self.pixel * np.arange(self.columns)).astype(np.float32)

    @property
    def z(self) -> Field:
        return (self.origin[2] + self.step * np.arange(self.slices)).astype(np.float32)

    def block(
        self, centre: NDArray[np.float64], turn: NDArray[np.float64], reach: Vector
    ) -> tuple[Region, Points] | None:
        """The part of the volume around a turned box of half sizes ``reach`` (mm), with its points in the box's frame.

        ``turn`` holds the box's axes as columns. None if the box lies outside the volume.
        """
        extent = np.abs(turn) @ np.array(reach)
        ranges = []
        shape = ((self.pixel, self.columns), (self.pixel, self.columns), (self.step, self.slices))
        for axis, (spacing, count) in enumerate(shape):
            first = max(0, math.floor((centre[axis] - extent[axis] - self.origin[axis]) / spacing))
            last = min(count, math.ceil((centre[axis] + extent[axis] - self.origin[axis]) / spacing) + 1)
            if first >= last:
                return None
            ranges.append(slice(first, last))
        dx = self.x[ranges[0]][None, None, :] - np.float32(centre[0])
        dy = self.y[ranges[1]][None, :, None] - np.float32(centre[1])
        dz = self.z[ranges[2]][:, None, None] - np.float32(centre[2])
        axes = turn.astype(np.float32)
        u, v, w = (axes[0, i] * dx + axes[1, i] * dy + axes[2, i] * dz for i in range(3))
        return (ranges[2], ranges[1], ranges[0]), (u, v, w)
