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
Sampling goes through the affine and the places of the slices, so a tilted gantry and uneven steps need
nothing of their own: a point lies between the two slices that were acquired around it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from client.ingest.filters import Normalise, denoise, normalise
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
_REACH = 3.0  # sigmas
_STRAY = 1e-3  # voxels: a plane that strays less from the axes of the volume lies along them
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

    @property
    def steps(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """``row_step`` and ``column_step``."""
        return self.row_step, self.column_step


@dataclass(frozen=True)
class Lattice:
    """Where the voxels of a volume, or of some of its neighbouring slices, lie.

    ``affine`` (4x4) takes (place, row, column, 1) to LPS mm, ``places`` [slices] are those of the slices,
    as in ``Series``. ``rows``, ``columns``: of a slice.
    """

    affine: NDArray[np.float64]
    places: NDArray[np.float64]
    rows: int
    columns: int

    @classmethod
    def of(cls, series: Series) -> Lattice:
        """The lattice of a whole series."""
        return cls(series.affine, series.places, *series.shape[1:])

    def cut(self, first: int, end: int) -> Lattice:
        """That of slices ``first`` to ``end - 1``."""
        return Lattice(self.affine, self.places[first:end], self.rows, self.columns)

    @property
    def inverse(self) -> NDArray[np.float64]:
        """From LPS mm to (place, row, column)."""
        return np.asarray(np.linalg.inv(self.affine), dtype=np.float64)

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """First and last place, row and column that hold a voxel."""
        return np.array([self.places[0], 0, 0]), np.array([self.places[-1], self.rows - 1, self.columns - 1])

    def slice_index(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional index among the slices, kept within them."""
        return np.interp(places, self.places, np.arange(len(self.places)))


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
    if not is_axial(series):
        return None
    step, normal = series.affine[:3, 0], series.normal
    chosen, examples = _central(len(series.headers), wanted.planes)
    if normal @ Z < 0:
        chosen, step, normal = len(series.headers) - 1 - chosen, -step, -normal
    axes = [direction / np.linalg.norm(direction) for direction in series.affine[:3, 1:3].T]
    column = max((*axes, *(-axis for axis in axes)), key=lambda axis: float(axis @ X))
    row = max((*axes, *(-axis for axis in axes)), key=lambda axis: float(axis @ np.cross(normal, column)))
    middle = (len(series.headers) - 1) / 2
    # Each plane is centred on its own slice: with a tilted gantry the view moves along with the table.
    centres = _centre(series) + (series.places[chosen] - middle)[:, None] * series.affine[:3, 0]
    return _plan(centres, step, (row, column), (examples, chosen[examples[:, 1]]), wanted)


def is_axial(series: Series) -> bool:
    """Whether the slices as acquired are axial."""
    return bool(abs(series.normal @ Z) >= AXIAL_COSINE)


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


def _corners(series: Series) -> NDArray[np.float64]:
    """LPS mm of the centres of the eight corner voxels, [8, 3]."""
    last = np.array(series.shape) - 1
    index = np.array(np.meshgrid(*zip((0, 0, 0), last, strict=True), indexing="ij")).reshape(3, -1).T
    corners: NDArray[np.float64] = index @ series.affine[:3, :3].T + series.affine[:3, 3]
    return corners


def slices_needed(series: Series, plan: PlanePlan) -> tuple[int, int]:
    """First and one past the last slice of the volume that the planes touch; at least one slice."""
    low, high = _box(Lattice.of(series), plan, slice(None))
    return int(low[0]), int(high[0])


def windowed(planes: Iterator[NDArray[np.float32]], plan: PlanePlan, wanted: Input) -> NDArray[np.uint8]:
    """``planes`` [size, size] in HU as the network sees them: uint8 [planes, windows, size, size]."""
    out = np.empty((len(plan.origins), len(wanted.windows), plan.size, plan.size), dtype=np.uint8)
    for index, sampled in enumerate(planes):
        plane = denoise(sampled, wanted.denoise)
        for channel, window in enumerate(wanted.windows):
            out[index, channel] = apply_window(plane, window, wanted.normalise)
    return out


def sample(volume: NDArray[np.int16], lattice: Lattice, plan: PlanePlan) -> Iterator[NDArray[np.float32]]:
    """The planes in HU by linear interpolation, whatever their direction; more than half a voxel outside is air."""
    for start in range(0, len(plan.origins), _CHUNK):
        part = slice(start, start + _CHUNK)
        low, high = _box(lattice, plan, part)
        cropped = volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
        for axis, sigma in enumerate(_sigmas(lattice.inverse, plan)):
            if sigma > 0:
                places = (
                    lattice.places[low[0] : high[0]] if axis == 0 else np.arange(cropped.shape[axis], dtype=np.float64)
                )
                cropped = _blur(cropped, places, float(sigma), axis)
        for index in range(*part.indices(len(plan.origins))):
            yield _sample(cropped, low, lattice, _places(lattice, plan, index))


@dataclass(frozen=True)
class Aligned:
    """Sampling axis by axis where planes lie along the axes of the volume: the same values, several times faster.

    ``axes``: the axis of the volume along which planes, rows and columns advance. ``weights``: for each of the
    three a matrix from voxels to samples, smoothing included. ``outside``: samples that are air, of each.
    ``part``: the rows and columns of the slices that are touched; the matrices take no others.
    """

    axes: tuple[int, int, int]
    weights: tuple[sparse.csr_array, ...]
    outside: tuple[NDArray[np.bool_], ...]
    part: tuple[slice, slice]

    @classmethod
    def of(cls, lattice: Lattice, plan: PlanePlan) -> Aligned | None:
        """None if the planes are oblique to the volume, or advance obliquely."""
        inverse = lattice.inverse
        starts = plan.origins @ inverse[:3, :3].T + inverse[:3, 3]
        moves = np.array([np.ptp(starts, axis=0), *(inverse[:3, :3] @ step * (plan.size - 1) for step in plan.steps)])
        axes = [int(np.abs(move).argmax()) for move in moves]
        if len(plan.origins) == 1:
            axes[0] = 3 - axes[1] - axes[2]
        stray = np.abs(moves)
        stray[range(3), axes] = 0
        if sorted(axes) != [0, 1, 2] or stray.max() > _STRAY:
            return None
        count = np.arange(plan.size)
        rows, columns = (
            starts[0, axis] + (inverse[axis, :3] @ step) * count
            for axis, step in zip(axes[1:], plan.steps, strict=True)
        )
        sigmas = _sigmas(inverse, plan)
        samples = zip(axes, (starts[:, axes[0]], rows, columns), strict=True)
        parts = [_weights(lattice, axis, at, float(sigmas[axis])) for axis, at in samples]
        touched = {axis: slice(w.indices.min(), w.indices.max() + 1) for axis, (w, _) in zip(axes, parts, strict=True)}
        touched[0] = slice(None)  # the slices were chosen before
        weights = tuple(w[:, touched[axis]] for axis, (w, _) in zip(axes, parts, strict=True))
        outside = tuple(beyond for _, beyond in parts)
        return cls((axes[0], axes[1], axes[2]), weights, outside, (touched[1], touched[2]))

    def sampled(self, volume: NDArray[np.int16]) -> Iterator[NDArray[np.float32]]:
        """The planes in HU; ``volume`` [slices, rows, columns] is the ``part`` of it."""
        turned = np.ascontiguousarray(volume.transpose(self.axes))  # each plane is then read in one piece
        through, down, across = self.weights
        for index in range(through.shape[0]):
            part = slice(through.indptr[index], through.indptr[index + 1])
            share = through.data[part, None, None]
            layer = (turned[through.indices[part]] * share).sum(axis=0, dtype=np.float32)
            plane = np.ascontiguousarray((across @ np.ascontiguousarray((down @ layer).T)).T, dtype=np.float32)
            plane[self.outside[1]] = plane[:, self.outside[2]] = AIR_HU
            yield np.full_like(plane, AIR_HU) if self.outside[0][index] else plane


def _weights(
    lattice: Lattice, axis: int, at: NDArray[np.float64], sigma: float
) -> tuple[sparse.csr_array, NDArray[np.bool_]]:
    """What takes the voxels along ``axis`` to samples ``at`` (places, rows or columns); which of them lie outside."""
    count = (len(lattice.places), lattice.rows, lattice.columns)[axis]
    first, last = (end[axis] for end in lattice.ends)
    outside = (at < first - 0.5) | (at > last + 0.5)
    index = np.clip(lattice.slice_index(at) if axis == 0 else at, 0, count - 1)
    below = np.minimum(index.astype(np.int64), max(count - 2, 0))
    above = np.minimum(below + 1, count - 1)
    rows = np.tile(np.arange(len(at)), 2)
    share = np.concatenate([1 - (index - below), index - below])
    linear = sparse.csr_array((share, (rows, np.concatenate([below, above]))), shape=(len(at), count))
    if sigma > 0:
        linear = linear @ (_smoothing(lattice.places, sigma) if axis == 0 else _even_smoothing(count, sigma))
    linear.eliminate_zeros()
    return sparse.csr_array(linear.astype(np.float32)), outside


@functools.lru_cache(maxsize=8)
def _even_smoothing(count: int, sigma: float) -> sparse.csr_array:
    """Kept, since series of one protocol share it."""
    return _smoothing(range(count), sigma)


def _smoothing(places: Sequence[float] | NDArray[np.float64], sigma: float) -> sparse.csr_array:
    """``_blur`` as a matrix [places, places]."""
    return sparse.csr_array(_blur(np.eye(len(places), dtype=np.float32), np.array(places, np.float64), sigma, 0))


def apply_window(hounsfield: NDArray[np.float32], window: Window, how: Normalise = "none") -> NDArray[np.uint8]:
    """``window.low`` HU and below to 0, ``window.high`` and above to 255, linear and rounded between.

    ``how`` the windowed plane is normalised before it is rounded.
    """
    share = np.clip((hounsfield - window.low) / (window.high - window.low), 0, 1)
    scaled: NDArray[np.uint8] = np.rint(normalise(share, how) * 255).astype(np.uint8)
    return scaled


def _sigmas(inverse: NDArray[np.float64], plan: PlanePlan) -> NDArray[np.float64]:
    """Gaussian sigma in voxels along each axis of the volume; 0 where nothing is skipped over."""
    steps = np.array([plan.plane_step, plan.row_step, plan.column_step]).T
    factor = np.abs(inverse[:3, :3] @ steps).max(axis=1)
    return np.where(factor > SMOOTH_ABOVE, (factor - 1) / 2, 0.0)


def _blur(values: NDArray[np.float32], places: NDArray[np.float64], sigma: float, axis: int) -> NDArray[np.float32]:
    """``values`` after a Gaussian along ``axis``, whose samples lie at ``places``; ``sigma`` in their unit."""
    if np.allclose(np.diff(places), 1, atol=1e-6):
        return np.asarray(ndimage.gaussian_filter1d(values, sigma, axis=axis, mode="nearest", truncate=_REACH))
    # The integral over neighbours at uneven distances: each counts by the gap that it fills.
    apart = (places[:, None] - places) / sigma
    share = np.where(np.abs(apart) <= _REACH, np.exp(-0.5 * apart**2), 0) * np.gradient(places)
    share = (share / share.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.moveaxis(np.tensordot(share, values, axes=(1, axis)), 0, axis)


def _box(lattice: Lattice, plan: PlanePlan, part: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index range of the volume that planes ``part`` draw on, with the reach of the smoothing."""
    inverse = lattice.inverse
    side = (plan.size - 1) * np.array(
        [plan.row_step * 0, plan.row_step, plan.column_step, plan.row_step + plan.column_step]
    )
    points = (plan.origins[part][:, None] + side).reshape(-1, 3) @ inverse[:3, :3].T + inverse[:3, 3]
    reach = np.ceil(_REACH * _sigmas(inverse, plan)) + 1
    low, high = (np.clip(ends, *lattice.ends) for ends in (points.min(axis=0) - reach, points.max(axis=0) + reach))
    low[0], high[0] = lattice.slice_index(np.array([low[0], high[0]]))
    return np.floor(low + 1e-6).astype(np.int64), np.ceil(high - 1e-6).astype(np.int64) + 1


def _places(lattice: Lattice, plan: PlanePlan, index: int) -> NDArray[np.float64]:
    """Place, row and column of the pixels of one plane, [3, size, size]."""
    inverse = lattice.inverse
    count = np.arange(plan.size)
    row, column = inverse[:3, :3] @ plan.row_step, inverse[:3, :3] @ plan.column_step
    start = inverse[:3, :3] @ plan.origins[index] + inverse[:3, 3]
    places: NDArray[np.float64] = (
        start[:, None, None] + row[:, None, None] * count[:, None] + column[:, None, None] * count
    )
    return places


def _sample(
    cropped: NDArray[np.float32], low: NDArray[np.int64], lattice: Lattice, places: NDArray[np.float64]
) -> NDArray[np.float32]:
    """One plane in HU; ``cropped`` is the part of a volume on ``lattice`` that begins at index ``low``."""
    first, last = (end[:, None, None] for end in lattice.ends)
    outside = ((places < first - 0.5) | (places > last + 0.5)).any(axis=0)
    indices = places - low[:, None, None]
    indices[0] = lattice.slice_index(places[0]) - low[0]
    plane: NDArray[np.float32] = ndimage.map_coordinates(cropped, indices, order=1, mode="nearest", output=np.float32)
    plane[outside] = AIR_HU
    return plane
