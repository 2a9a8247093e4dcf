"""What makes a CT slice usable: a place in the patient, a scale, and Hounsfield units.

The same for a single-frame file and for a frame of a multi-frame file (PS3.3 C.7.6.2, C.7.6.16, C.11.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from client.ingest.attributes import share
from client.ingest.records import Header, Pixels, Reason

MAXIMUM_SIDE = 4096
"""Most rows or columns that a slice may have; CT has up to 2048."""
MAXIMUM_VOXELS = 2**30
"""Most rows x columns x frames that a file may have: 4096 slices of 512 x 512."""
MAXIMUM_POSITION = 1e5
"""Largest coordinate of a position, mm: 100 m."""
SMALLEST_PIXEL, LARGEST_PIXEL = 0.01, 20.0
"""Pixel spacing lies between these, mm."""
UNIT_TOLERANCE = 1e-3
"""How far the orientation's vectors may be from length 1 and from a right angle (their scalar product)."""


@dataclass(frozen=True, slots=True)
class Common:
    """What the frames of a file have in common; see ``Header``."""

    path: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    frame_of_reference: str
    rows: int
    columns: int
    vendor: str
    syntax: str


@dataclass(frozen=True, slots=True)
class Making:
    """How a slice was made: the values of ImageType or FrameType, and ``Header``'s fields of these names."""

    image_type: tuple[str, ...]
    acquisition: str
    thickness: list[float]
    kernel: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the pixels of a slice lie and what they mean, as written: each a list of any length."""

    position: list[float]
    orientation: list[float]
    spacing: list[float]
    slope: list[float]
    intercept: list[float]
    has_table: bool
    """A ModalityLUTSequence stands for slope and intercept."""

    def fault(self) -> tuple[Reason, str] | None:
        """Why it can't be used, with detail; None if it can."""
        for name, found in (
            ("ImagePositionPatient", self.position),
            ("ImageOrientationPatient", self.orientation),
            ("PixelSpacing", self.spacing),
        ):
            if not found:
                return Reason.NO_GEOMETRY, name
        if not self.has_table and not (self.slope and self.intercept):
            return Reason.NO_RESCALE, "RescaleIntercept" if self.slope else "RescaleSlope"
        checks = (
            (self._is_position(), "ImagePositionPatient"),
            (self._is_orientation(), "ImageOrientationPatient"),
            (len(self.spacing) == 2 and all(SMALLEST_PIXEL < v < LARGEST_PIXEL for v in self.spacing), "PixelSpacing"),
            (self.has_table or (_is_one(self.slope) and self.slope[0] != 0), "RescaleSlope"),
            (self.has_table or _is_one(self.intercept), "RescaleIntercept"),
        )
        return next(((Reason.BAD_HEADER, name) for good, name in checks if not good), None)

    def _is_position(self) -> bool:
        return len(self.position) == 3 and all(abs(v) < MAXIMUM_POSITION for v in self.position)

    def _is_orientation(self) -> bool:
        if len(self.orientation) != 6 or not all(map(math.isfinite, self.orientation)):
            return False
        across, down = self.orientation[:3], self.orientation[3:]
        lengths = (math.hypot(*vector) for vector in (across, down))
        product = sum(a * b for a, b in zip(across, down, strict=True))
        return all(abs(length - 1) < UNIT_TOLERANCE for length in lengths) and abs(product) < UNIT_TOLERANCE


def _is_one(found: list[float]) -> bool:
    return len(found) == 1 and math.isfinite(found[0])


def make_header(
    common: Common, placement: Placement, making: Making, frame: int, pixels: Pixels | None = None
) -> Header:
    """The header of a slice whose ``placement`` has no fault; ``frame`` is 0 in a single-frame file."""
    x, y, z = placement.position
    a, b, c, d, e, f = placement.orientation
    height, width = placement.spacing
    kinds = making.image_type
    thickness = making.thickness[0] if making.thickness else 0.0
    return Header(
        path=common.path,
        patient_id=common.patient_id,
        study_uid=common.study_uid,
        series_uid=common.series_uid,
        sop_uid=common.sop_uid,
        frame_of_reference=common.frame_of_reference,
        position=(x, y, z),
        orientation=share((a, b, c, d, e, f)),
        spacing=share((height, width)),
        rows=common.rows,
        columns=common.columns,
        frame=frame,
        original="ORIGINAL" in kinds[:1],
        primary="PRIMARY" in kinds[1:2],
        acquisition=share("\\".join((making.acquisition, *kinds))),
        thickness=thickness if 0 < thickness < math.inf else 0.0,
        kernel=making.kernel,
        vendor=common.vendor,
        syntax=common.syntax,
        pixels=pixels,
    )
