"""What the network sees of a volume: planes of one view, in patient coordinates.

Every plane is a square grid of ``size`` x ``size`` pixels at ``spacing_mm``, centred on the volume:

========  =====================  ==============================  =========================
view      rows, top to bottom    columns, left to right          planes, first to last
========  =====================  ==============================  =========================
axial     front to back (+y)     patient's right to left (+x)    feet to head (+z)
sagittal  head to feet (-z)      front to back (+y)              right to left (+x)
coronal   head to feet (-z)      patient's right to left (+x)    front to back (+y)
========  =====================  ==============================  =========================

Directions come from the volume's affine, so neither slice order nor orientation can mirror a plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from client.ingest.geometry import Series
from client.ingest.volume import AIR_HU
from common.study import Input, Window

X, Y, Z = np.eye(3)
VIEWS = {"axial": (Z, Y, X), "sagittal": (X, -Z, Y), "coronal": (Y, -Z, X)}
"""For each view the LPS directions of increasing plane, row and column."""
SMOOTH_ABOVE = 1.5
"""Downsampling by more than this is preceded by a Gaussian of (factor - 1) / 2 voxels."""
AXIAL_COSINE = np.cos(np.deg2rad(45))
"""Slices as acquired are axial when their normal is within 45 degrees of the head-feet axis."""
_CHUNK = 16  # planes rendered together: bounds the memory taken by a smoothed part of the volume


@dataclass(frozen=True)
class PlanePlan:
    """Where the planes of one volume lie, in LPS mm.

    ``origins`` [planes, 3]: centre of pixel (0, 0) of each plane. ``plane_step``, ``row_step``,
    ``column_step`` [3]: from a plane, row, column to the next. ``examples`` [n, 3]: indices of the
    lower, centre and upper plane of each example. ``slices`` [n]: the slice that an example's centre
    is, -1 where planes are resampled. ``size``: pixels a side.
    """

    origins: NDArray[np.float64]
    plane_step: NDArray[np.float64]
    row_step: NDArray[np.float64]
    column_step: NDArray[np.float64]
    examples: NDArray[np.int32]
    slices: NDArray[np.int32]
    size: int


def plan_planes(series: Series, wanted: Input) -> PlanePlan | None:
    """Lay the study's planes into a volume; None if it wants slices as acquired and they are not axial."""
    if wanted.slice_spacing_mm == 0:
        return _plan_native(series, wanted)
    plane, row, column = VIEWS[wanted.view]
    count, outer = wanted.planes, 1
    if wanted.view == "axial":  # only within the volume; a reformat may reach into the air beside it
        extent = np.ptp(_corners(series) @ Z) / wanted.slice_spacing_mm + 1e-6
        count = min(wanted.planes or int(extent) + 1, int(extent) + 1)
        outer = int(count + 1 <= extent)
    _, examples = _central(count + 2 * outer, count)
    offsets = (np.arange(count + 2 * outer) - (count + 2 * outer - 1) / 2) * wanted.slice_spacing_mm
    centres = _centre(series) + offsets[:, None] * plane
    slices = np.full(len(examples), -1)
    return _plan(centres, plane * wanted.slice_spacing_mm, (row, column), (examples, slices), wanted)


def _plan_native(series: Series, wanted: Input) -> PlanePlan | None:
    """Planes are the slices themselves, turned in their own plane so that front is up and right is left."""
    step = series.affine[:3, 0]
    if abs(step @ Z) < AXIAL_COSINE * np.linalg.norm(step):
        return None
    chosen, examples = _central(len(series.headers), wanted.planes)
    if step @ Z < 0:
        chosen, step = len(series.headers) - 1 - chosen, -step
    axes = [direction / np.linalg.norm(direction) for direction in series.affine[:3, 1:3].T]
    column = max((*axes, *(-axis for axis in axes)), key=lambda axis: float(axis @ X))
    row = max((*axes, *(-axis for axis in axes)), key=lambda axis: float(axis @ np.cross(step, column)))
    middle = (len(series.headers) - 1) / 2
    centres = _centre(series) + (chosen - middle)[:, None] * series.affine[:3, 0]
    return _plan(centres, step, (row, column), (examples, chosen[examples[:, 1]]), wanted)


def _central(available: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The ``wanted`` central of ``available`` planes (0: all) with a neighbour on each side where there
    is one, and the examples as indices into them; at an end the edge plane is its own neighbour.
    """
    count = min(wanted or available, available)
    first = (available - count) // 2
    stacks = np.clip(np.arange(first, first + count)[:, None] + np.arange(-1, 2), 0, available - 1)
    chosen = np.arange(stacks.min(), stacks.max() + 1)
    return chosen, stacks - chosen[0]


def _plan(
    centres: NDArray[np.float64],
    plane_step: NDArray[np.float64],
    directions: tuple[NDArray[np.float64], NDArray[np.float64]],
    examples: tuple[NDArray[np.int64], NDArray[np.int64]],
    wanted: Input,
) -> PlanePlan:
    row_step, column_step = (direction * wanted.spacing_mm for direction in directions)
    origins = centres - (row_step + column_step) * (wanted.size - 1) / 2
    stacks, slices = (part.astype(np.int32) for part in examples)
    return PlanePlan(origins, plane_step, row_step, column_step, stacks, slices, wanted.size)


def _centre(series: Series) -> NDArray[np.float64]:
    """LPS mm of the centre of the volume."""
    centre: NDArray[np.float64] = _corners(series).mean(axis=0)
    return centre


def _inverse(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """From LPS mm to voxel indices."""
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def _corners(series: Series) -> NDArray[np.float64]:
    """LPS mm of the centres of the eight corner voxels, [8, 3]."""
    last = np.array(series.shape) - 1
    index = np.array(np.meshgrid(*zip((0, 0, 0), last, strict=True), indexing="ij")).reshape(3, -1).T
    corners: NDArray[np.float64] = index @ series.affine[:3, :3].T + series.affine[:3, 3]
    return corners


def slices_needed(series: Series, plan: PlanePlan) -> tuple[int, int]:
    """First and one past the last slice of the volume that the planes touch; at least one slice."""
    inverse = _inverse(series.affine)
    low, high = _box(inverse, plan, slice(None), series.shape)
    return int(low[0]), int(high[0])


def render(
    volume: NDArray[np.int16], affine: NDArray[np.float64], plan: PlanePlan, windows: tuple[Window, ...]
) -> NDArray[np.uint8]:
    """Sample the planes from ``volume`` (HU) by linear interpolation: uint8 [planes, windows, size, size].

    More than half a voxel outside the volume is air. ``affine`` takes the indices of ``volume`` to LPS mm.
    """
    inverse = _inverse(affine)
    out = np.empty((len(plan.origins), len(windows), plan.size, plan.size), dtype=np.uint8)
    for start in range(0, len(plan.origins), _CHUNK):
        part = slice(start, start + _CHUNK)
        low, high = _box(inverse, plan, part, volume.shape)
        cropped = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
        for axis, sigma in enumerate(_sigmas(inverse, plan)):
            if sigma > 0:
                cropped = ndimage.gaussian_filter1d(cropped, sigma, axis=axis, mode="nearest", truncate=3.0)
        for index in range(*part.indices(len(plan.origins))):
            plane = _sample(cropped, low, volume.shape, _indices(inverse, plan, plan.origins[index]))
            for channel, window in enumerate(windows):
                out[index, channel] = apply_window(plane, window)
    return out


def apply_window(hounsfield: NDArray[np.float32], window: Window) -> NDArray[np.uint8]:
    """``window.low`` HU and below to 0, ``window.high`` and above to 255, linear and rounded between."""
    share = (hounsfield - window.low) / (window.high - window.low)
    scaled: NDArray[np.uint8] = np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
    return scaled


def _sigmas(inverse: NDArray[np.float64], plan: PlanePlan) -> NDArray[np.float64]:
    """Gaussian sigma in voxels along each axis of the volume; 0 where nothing is skipped over."""
    steps = np.array([plan.plane_step, plan.row_step, plan.column_step]).T
    factor = np.abs(inverse[:3, :3] @ steps).max(axis=1)
    return np.where(factor > SMOOTH_ABOVE, (factor - 1) / 2, 0.0)


def _box(
    inverse: NDArray[np.float64], plan: PlanePlan, part: slice, shape: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index range of the volume that planes ``part`` draw on, with the reach of the smoothing."""
    side = (plan.size - 1) * np.array(
        [plan.row_step * 0, plan.row_step, plan.column_step, plan.row_step + plan.column_step]
    )
    points = (plan.origins[part][:, None] + side).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]
    reach = np.ceil(3 * _sigmas(inverse, plan)) + 1
    last = np.array(shape) - 1
    low = np.clip(np.floor(points.min(axis=0) - reach), 0, last).astype(np.int64)
    high = np.clip(np.ceil(points.max(axis=0) + reach), 0, last).astype(np.int64) + 1
    return low, high


def _indices(inverse: NDArray[np.float64], plan: PlanePlan, origin: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel indices of the pixels of one plane, [3, size, size]."""
    count = np.arange(plan.size)
    row, column = inverse[:3, :3] @ plan.row_step, inverse[:3, :3] @ plan.column_step
    start = inverse[:3, :3] @ origin + inverse[:3, 3]
    indices: NDArray[np.float64] = (
        start[:, None, None] + row[:, None, None] * count[:, None] + column[:, None, None] * count
    )
    return indices


def _sample(
    cropped: NDArray[np.float32], low: NDArray[np.int64], shape: tuple[int, ...], indices: NDArray[np.float64]
) -> NDArray[np.float32]:
    """One plane in HU; ``cropped`` is the part of a volume of ``shape`` that begins at ``low``."""
    plane: NDArray[np.float32] = ndimage.map_coordinates(
        cropped, indices - low[:, None, None], order=1, mode="nearest", output=np.float32
    )
    edge = np.array(shape)[:, None, None] - 0.5
    plane[((indices < -0.5) | (indices > edge)).any(axis=0)] = AIR_HU
    return plane
