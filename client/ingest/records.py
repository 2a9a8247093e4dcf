"""What becomes of a file: a ``Header`` that may be used, or a ``Skip`` with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a file is not in the cohort. The codes are stable: reports and tests name them."""

    UNREADABLE = "unreadable"
    NOT_A_FILE = "not-a-file"
    NOT_DICOM = "not-dicom"
    NOT_CT = "not-ct"
    LOCALIZER = "localizer"
    MULTI_FRAME = "multi-frame"
    BAD_HEADER = "bad-header"
    NO_GEOMETRY = "no-geometry"
    NO_RESCALE = "no-rescale"
    NO_PATIENT_ID = "no-patient-id"
    DUPLICATE_INSTANCE = "duplicate-instance"
    DUPLICATE_POSITION = "duplicate-position"
    TOO_FEW_SLICES = "too-few-slices"
    UNEVEN_SPACING = "uneven-spacing"
    GANTRY_TILT = "gantry-tilt"
    NOT_AXIAL = "not-axial"
    NO_LABEL = "no-label"
    OTHER_SERIES = "other-series"
    PIXELS_UNREADABLE = "pixels-unreadable"


EXPLANATIONS: dict[Reason, str] = {
    Reason.UNREADABLE: "the file or folder can't be opened",
    Reason.NOT_A_FILE: "a device, pipe, socket or broken link",
    Reason.NOT_DICOM: "no DICOM by its content",
    Reason.NOT_CT: "another kind of object than CT Image Storage",
    Reason.LOCALIZER: "a scout image",
    Reason.MULTI_FRAME: "several frames or colour planes in one file",
    Reason.BAD_HEADER: "a header value that is damaged or absurd",
    Reason.NO_GEOMETRY: "position, orientation, pixel spacing or size missing",
    Reason.NO_RESCALE: "rescale slope or intercept missing, so no Hounsfield units",
    Reason.NO_PATIENT_ID: "PatientID empty, so the patient can't be told from others",
    Reason.DUPLICATE_INSTANCE: "the same SOP instance as another file",
    Reason.DUPLICATE_POSITION: "two slices of the series at one position",
    Reason.TOO_FEW_SLICES: "fewer than 3 slices in the series",
    Reason.UNEVEN_SPACING: "slices missing or unevenly spaced",
    Reason.GANTRY_TILT: "slices sheared against their normal",
    Reason.NOT_AXIAL: "slices are not axial, and the study wants them as acquired",
    Reason.NO_LABEL: "the label table has no row for it",
    Reason.OTHER_SERIES: "another series of the same patient or study was chosen (ORIGINAL first, most slices, thinnest)",
    Reason.PIXELS_UNREADABLE: "pixel data missing, truncated or not decodable",
}


@dataclass(frozen=True, slots=True)
class Skip:
    """A file that is left out. ``path`` is relative to the DICOM folder and never leaves the site."""

    path: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Header:
    """One CT slice that may be used. Identifiers live in memory only: nothing of them is stored.

    ``position`` is ImagePositionPatient (LPS mm, centre of the first pixel), ``orientation``
    ImageOrientationPatient (unit vectors of increasing column, then of increasing row),
    ``spacing`` PixelSpacing (mm between rows, mm between columns): DICOM PS3.3 C.7.6.2.
    """

    path: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing: tuple[float, float]
    rows: int
    columns: int
    original: bool
