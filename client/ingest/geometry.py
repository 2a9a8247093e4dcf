"""From slice headers to sound volumes in patient coordinates.

Coordinates are DICOM's: millimetres, x to the patient's left, y to the back, z to the head (LPS;
PS3.3 C.7.6.2.1.1). Slices are ordered by position along the normal of ImageOrientationPatient;
instance numbers and file names say nothing.

What is corrected, because the affine and the places of the slices say it exactly: slices written in
any order, a gantry tilt (a linear shear), and steps that vary within the limits below. What is
refused, because pixels would have to be invented: larger gaps, slices that leave the line, and two
slices at one position that no acquisition tells apart.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from client.ingest.records import Header, Reason, Skip

MINIMUM_SLICES = 3
ORIENTATION_TOLERANCE = 5e-4
"""Largest difference of a direction cosine within a series: 0.13 mm at 250 mm from the centre."""
SPACING_TOLERANCE = 5e-4
"""Largest difference of PixelSpacing within a series in mm: 0.13 mm at 256 pixels from the centre."""
DUPLICATE_MM = 0.01
"""Slices nearer than this along the normal are at one position."""
UNEVEN_MM = 0.25
"""Largest distance in mm of a slice from its place: from the line of the stack, and of an even stack along it..."""
UNEVEN_SHARE = 0.2
"""...and largest share of the slice spacing; a missing slice moves one by half of it or more."""
GAP_MM = 5.0
"""Steps along an uneven stack up to this many mm are interpolated across..."""
GAP_SHARE = 2.5
"""...if none exceeds the median step by more than this factor: one slice missing, not a region."""
TILT_MM = 1.0
"""In-plane drift from the first slice to the last, in mm, from which on a stack is called tilted."""
TILT_DEGREES = 30.5
"""Largest tilt taken: gantries tilt up to 30 degrees, positions are rounded."""


@dataclass(frozen=True)
class Series:
    """A sound volume.

    ``headers`` are in order along the normal. ``affine`` (4x4, float64) takes (place, row, column, 1) to
    LPS mm at the centre of the voxel. ``places`` (float64 [slices]): where each slice lies, in mean steps
    from the first: 0, 1, 2... in an even stack. ``notes``: what was found and corrected, in closed wording.
    """

    headers: tuple[Header, ...]
    affine: NDArray[np.float64]
    places: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @property
    def patient_id(self) -> str:
        """PatientID, the same in all headers."""
        return self.headers[0].patient_id

    @property
    def shape(self) -> tuple[int, int, int]:
        """Slices, rows, columns."""
        return len(self.headers), self.headers[0].rows, self.headers[0].columns

    @property
    def slice_spacing(self) -> float:
        """Mean distance between neighbouring slices in mm, along the normal."""
        return float(self.affine[:3, 0] @ self.normal)

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector at right angles to the slices, from the first towards the last."""
        return _normal(self.headers[0])

    @property
    def even(self) -> bool:
        """Whether all steps are taken as the same."""
        return bool((self.places == np.arange(len(self.places))).all())


@dataclass(frozen=True)
class Refused:
    """Why slices are no volume; ``detail`` in numbers of this module."""

    reason: Reason
    detail: str = ""


def build_series(headers: list[Header]) -> tuple[list[Series], list[Skip]]:
    """Group ``headers`` into volumes; every header ends in a ``Series`` or in a ``Skip``."""
    unique, skips = _without_copies(headers)
    series: list[Series] = []
    for group in _groups(unique):
        for part, found in _volumes(group):
            if isinstance(found, Series):
                series.append(found)
            else:
                skips += [Skip(header.path, found.reason, found.detail) for header in part]
    return series, skips


def _without_copies(headers: list[Header]) -> tuple[list[Header], list[Skip]]:
    """Keep the first, by path, of every slice; frames of one file are slices of their own."""
    seen: set[tuple[str, str]] = set()
    unique: list[Header] = []
    skips: list[Skip] = []
    for header in sorted(headers, key=lambda h: (h.path, h.frame)):
        key = (header.patient_id, header.slice_id)
        if key in seen:
            skips.append(Skip(header.path, Reason.DUPLICATE_INSTANCE))
            continue
        seen.add(key)
        unique.append(header)
    return unique, skips


def _groups(headers: list[Header]) -> list[list[Header]]:
    """Headers of one patient, study, series, size, spacing and orientation."""
    keyed: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in headers:
        # Without a series UID, the file of many frames or the folder is the best hint at what belongs together.
        hint = header.path if header.frame else os.path.dirname(header.path)
        series = header.series_uid or f"folder {hint}"
        keyed[(header.patient_id, header.study_uid, series, header.rows, header.columns)].append(header)
    return [group for same in keyed.values() for group in _alike(same)]


def _alike(headers: list[Header]) -> list[list[Header]]:
    """Split by orientation and pixel spacing."""
    values = np.array([(*header.orientation, *header.spacing) for header in headers])
    tolerance = np.array([ORIENTATION_TOLERANCE] * 6 + [SPACING_TOLERANCE] * 2)
    left = np.arange(len(headers))
    groups: list[list[Header]] = []
    while len(left):
        same = (np.abs(values[left] - values[left[0]]) <= tolerance).all(axis=1)
        groups.append([headers[i] for i in left[same]])
        left = left[~same]
    return groups


def _volumes(group: list[Header]) -> list[tuple[list[Header], Series | Refused]]:
    """The volume of a group, or where slices of several acquisitions lie among each other, one of each."""
    whole = order_slices(group)
    if isinstance(whole, Series) and whole.even:
        return [(group, whole)]
    keyed: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in group:
        keyed[(header.acquisition, header.kernel, header.thickness)].append(header)
    parts = list(keyed.values())
    if len(parts) > 1 and _overlap(parts):
        found = [(part, order_slices(part)) for part in parts]
        if any(isinstance(one, Series) for _, one in found):
            return [(part, _noted(one)) for part, one in found]
    return [(group, whole)]


def _noted(found: Series | Refused) -> Series | Refused:
    return replace(found, notes=("split by acquisition", *found.notes)) if isinstance(found, Series) else found


def _overlap(parts: list[list[Header]]) -> bool:
    """Whether the ranges of heights of any two of ``parts`` share more than a point."""
    normal = _normal(parts[0][0])
    heights = [np.array([header.position for header in part]) @ normal for part in parts]
    ranges = sorted((float(height.min()), float(height.max())) for height in heights)
    return any(second[0] < first[1] + DUPLICATE_MM for first, second in itertools.pairwise(ranges))


def _normal(header: Header) -> NDArray[np.float64]:
    normal = np.cross(header.orientation[:3], header.orientation[3:])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def order_slices(headers: list[Header]) -> Series | Refused:
    """The volume of slices that share orientation, size and spacing, or why they are none."""
    if len(headers) < MINIMUM_SLICES:
        return Refused(Reason.TOO_FEW_SLICES, f"{len(headers)} slice{'s' if len(headers) != 1 else ''}")
    normal = _normal(headers[0])
    positions = np.array([header.position for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = tuple(headers[i] for i in order), positions[order]
    heights = (positions - positions[0]) @ normal
    same = int((np.diff(heights) < DUPLICATE_MM).sum())
    if same:
        return Refused(Reason.DUPLICATE_POSITION, f"{same} of {len(headers)} slices")
    step = (positions[-1] - positions[0]) / (len(headers) - 1)
    spacing = float(heights[-1]) / (len(headers) - 1)
    places = heights / spacing
    # A slice may be off its place by rounding, not by so much that a neighbour could be meant.
    slack = min(UNEVEN_MM, UNEVEN_SHARE * spacing)
    aside = float(np.linalg.norm(positions - positions[0] - places[:, None] * step, axis=1).max())
    tilt = _tilt(step, spacing, len(headers))
    refused = _off_line(aside, slack, tilt)
    even = np.abs(places - np.arange(len(places))).max() * np.linalg.norm(step) <= slack
    if even:
        places = np.arange(len(headers), dtype=np.float64)
    elif refused is None:
        refused = _gap(np.diff(heights))
    if refused is not None:
        return refused
    notes = (
        *([f"gantry tilt {tilt:.1f} degrees"] if tilt else ()),
        *([] if even else [f"uneven spacing {_steps(np.diff(heights))} mm interpolated"]),
    )
    return Series(ordered, _affine(headers[0], positions[0], step), places, notes)


def _affine(header: Header, origin: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(header.orientation[3:]) * header.spacing[0]
    affine[:3, 2] = np.array(header.orientation[:3]) * header.spacing[1]
    affine[:3, 3] = origin
    return affine


def _tilt(step: NDArray[np.float64], spacing: float, count: int) -> float:
    """Degrees between the line of the slices and their normal; 0 when it comes to less than TILT_MM."""
    drift = math.sqrt(max(float(step @ step) - spacing**2, 0.0))
    return math.degrees(math.atan2(drift, spacing)) if drift * (count - 1) > TILT_MM else 0.0


def _off_line(aside: float, slack: float, tilt: float) -> Refused | None:
    if tilt > TILT_DEGREES:
        return Refused(Reason.GANTRY_TILT, f"tilt {tilt:.1f} degrees")
    if aside > slack:
        return Refused(Reason.UNEVEN_SPACING, f"slices up to {aside:.1f} mm off their line")
    return None


def _gap(steps: NDArray[np.float64]) -> Refused | None:
    """Why ``steps`` (mm) are too uneven to interpolate across, or None."""
    if steps.max() <= min(GAP_MM, GAP_SHARE * float(np.median(steps))):
        return None
    return Refused(Reason.UNEVEN_SPACING, f"steps {_steps(steps)} mm")


def _steps(steps: NDArray[np.float64]) -> str:
    return f"{steps.min():.1f}-{steps.max():.1f}"
