"""From slice headers to sound volumes in patient coordinates.

Coordinates are DICOM's: millimetres, x to the patient's left, y to the back, z to the head (LPS;
PS3.3 C.7.6.2.1.1). Slices are ordered by position along the normal of ImageOrientationPatient;
instance numbers and file names say nothing. What is not an even, unsheared stack is refused, not
repaired.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.ingest.records import Header, Reason, Skip

MINIMUM_SLICES = 3
ORIENTATION_TOLERANCE = 5e-4
"""Largest difference of a direction cosine within a series: 0.13 mm at 250 mm from the centre."""
DUPLICATE_MM = 0.01
"""Slices nearer than this along the normal are at one position."""
UNEVEN_MM = 0.25
"""Largest distance of a slice from its place in the even stack..."""
UNEVEN_SHARE = 0.2
"""...and largest share of the slice spacing; a missing slice moves one by half of it or more."""
TILT_MM = 1.0
"""Largest in-plane drift from the first slice to the last; a tilted gantry shears the stack by more."""


@dataclass(frozen=True)
class Series:
    """A sound volume. ``headers`` are in order along the normal; ``affine`` (4x4, float64) takes
    (slice, row, column, 1) to LPS mm at the centre of the voxel.
    """

    headers: tuple[Header, ...]
    affine: NDArray[np.float64]

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
        """Distance between neighbouring slices in mm."""
        return float(np.linalg.norm(self.affine[:3, 0]))


def build_series(headers: list[Header]) -> tuple[list[Series], list[Skip]]:
    """Group ``headers`` into volumes; every header ends in a ``Series`` or in a ``Skip``."""
    unique, skips = _without_copies(headers)
    series: list[Series] = []
    for group in _groups(unique):
        found = order_slices(group)
        if isinstance(found, Reason):
            skips += [Skip(header.path, found) for header in group]
        else:
            series.append(found)
    return series, skips


def _without_copies(headers: list[Header]) -> tuple[list[Header], list[Skip]]:
    """Keep the first file, by path, of every SOP instance."""
    seen: set[tuple[str, str]] = set()
    unique: list[Header] = []
    skips: list[Skip] = []
    for header in sorted(headers, key=lambda h: h.path):
        key = (header.patient_id, header.sop_uid)
        if header.sop_uid and key in seen:
            skips.append(Skip(header.path, Reason.DUPLICATE_INSTANCE))
            continue
        seen.add(key)
        unique.append(header)
    return unique, skips


def _groups(headers: list[Header]) -> list[list[Header]]:
    """Headers of one patient, study, series, size, spacing and orientation."""
    keyed: dict[tuple[object, ...], list[Header]] = defaultdict(list)
    for header in headers:
        # Without a series UID, the folder is the best hint at what belongs together.
        series = header.series_uid or f"folder {os.path.dirname(header.path)}"
        size = (header.rows, header.columns, *(round(mm, 4) for mm in header.spacing))
        keyed[(header.patient_id, header.study_uid, series, *size)].append(header)
    return [group for same in keyed.values() for group in _by_orientation(same)]


def _by_orientation(headers: list[Header]) -> list[list[Header]]:
    remaining = np.array([header.orientation for header in headers])
    left = np.arange(len(headers))
    groups: list[list[Header]] = []
    while len(left):
        same = np.abs(remaining[left] - remaining[left[0]]).max(axis=1) <= ORIENTATION_TOLERANCE
        groups.append([headers[i] for i in left[same]])
        left = left[~same]
    return groups


def order_slices(headers: list[Header]) -> Series | Reason:
    """The volume of slices that share orientation, size and spacing, or why they are none."""
    if len(headers) < MINIMUM_SLICES:
        return Reason.TOO_FEW_SLICES
    across = np.array(headers[0].orientation[:3])
    down = np.array(headers[0].orientation[3:])
    normal = np.cross(across, down)
    positions = np.array([header.position for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    steps = np.diff(positions @ normal)
    if steps.min() < DUPLICATE_MM:
        return Reason.DUPLICATE_POSITION
    step = (positions[-1] - positions[0]) / (len(headers) - 1)
    spacing = float(step @ normal)
    drift = (positions[-1] - positions[0]) - (len(headers) - 1) * spacing * normal
    if np.linalg.norm(drift) > TILT_MM:
        return Reason.GANTRY_TILT
    places = positions[0] + np.arange(len(headers))[:, None] * step
    if np.linalg.norm(positions - places, axis=1).max() > min(UNEVEN_MM, UNEVEN_SHARE * spacing):
        return Reason.UNEVEN_SPACING
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = down * headers[0].spacing[0]
    affine[:3, 2] = across * headers[0].spacing[1]
    affine[:3, 3] = positions[0]
    return Series(tuple(headers[i] for i in order), affine)
