"""What becomes of a file: ``Header`` records that may be used, or a ``Skip`` with its reason.

A *source* names what holds the bytes: a path relative to the DICOM folder, or for a member of a zip
archive ``archive.zip!/member``. Sources and identifiers live in memory and in the encrypted scan
index only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MEMBER = "!/"
"""Stands between the path of an archive and the name of a member in a source."""


class Reason(StrEnum):
    """Why a file is not in the cohort. The codes are stable: reports and tests name them."""

    UNREADABLE = "unreadable"
    NOT_A_FILE = "not-a-file"
    ARCHIVE = "archive"
    BAD_ARCHIVE = "bad-archive"
    TOO_LARGE = "too-large"
    NOT_DICOM = "not-dicom"
    DICOMDIR = "dicomdir"
    NOT_CT = "not-ct"
    LOCALIZER = "localizer"
    SCREEN_SAVE = "screen-save"
    BURNED_IN_TEXT = "burned-in-text"
    COLOUR = "colour"
    BAD_HEADER = "bad-header"
    NO_GEOMETRY = "no-geometry"
    NO_RESCALE = "no-rescale"
    NO_PATIENT_ID = "no-patient-id"
    UNSUPPORTED_SYNTAX = "unsupported-syntax"
    DUPLICATE_INSTANCE = "duplicate-instance"
    DUPLICATE_POSITION = "duplicate-position"
    TOO_FEW_SLICES = "too-few-slices"
    UNEVEN_SPACING = "uneven-spacing"
    GANTRY_TILT = "gantry-tilt"
    NOT_AXIAL = "not-axial"
    NO_LABEL = "no-label"
    CONFLICTING_LABEL = "conflicting-label"
    NO_STRUCTURE = "no-structure"
    OTHER_SERIES = "other-series"
    PIXELS_UNREADABLE = "pixels-unreadable"
    IMPLAUSIBLE_HU = "implausible-hu"


EXPLANATIONS: dict[Reason, str] = {
    Reason.UNREADABLE: "the file or folder can't be opened",
    Reason.NOT_A_FILE: "a device, pipe, socket or broken link",
    Reason.ARCHIVE: "a zip archive; each of its members has a row of its own",
    Reason.BAD_ARCHIVE: "a zip archive that is damaged, encrypted, or lies within another",
    Reason.TOO_LARGE: "more bytes or pixels than a CT study has: damaged, or made to exhaust the memory",
    Reason.NOT_DICOM: "no DICOM by its content",
    Reason.DICOMDIR: "an index of other files; each of them has a row of its own",
    Reason.NOT_CT: "another kind of object than CT or Enhanced CT Image Storage",
    Reason.LOCALIZER: "a scout image",
    Reason.SCREEN_SAVE: "a secondary capture or screen save",
    Reason.BURNED_IN_TEXT: "text is drawn into the pixels, which may name the patient",
    Reason.COLOUR: "colour planes, so no Hounsfield units",
    Reason.BAD_HEADER: "a header value that is damaged or absurd",
    Reason.NO_GEOMETRY: "position, orientation, pixel spacing or size missing",
    Reason.NO_RESCALE: "rescale slope or intercept missing, so no Hounsfield units",
    Reason.NO_PATIENT_ID: "PatientID empty, so the patient can't be told from others",
    Reason.UNSUPPORTED_SYNTAX: "a transfer syntax that CT does not come in, or that is not supported",
    Reason.DUPLICATE_INSTANCE: "the same SOP instance as another file",
    Reason.DUPLICATE_POSITION: "two slices of the series at one position",
    Reason.TOO_FEW_SLICES: "fewer than 3 slices in the series",
    Reason.UNEVEN_SPACING: "slices missing, or too far apart to interpolate",
    Reason.GANTRY_TILT: "slices sheared against their normal by more than a gantry tilts",
    Reason.NOT_AXIAL: "slices are not axial, and the study wants them as acquired",
    Reason.NO_LABEL: "no label for it",
    Reason.CONFLICTING_LABEL: "the label table gives it two different classes",
    Reason.NO_STRUCTURE: "a structure set or segmentation without the structure of the study, or on no CT series here",
    Reason.OTHER_SERIES: "another series of the same patient or study was chosen",
    Reason.PIXELS_UNREADABLE: "pixel data missing, truncated or not decodable",
    Reason.IMPLAUSIBLE_HU: "values that are no Hounsfield units: air is not near -1000",
}


@dataclass(frozen=True, slots=True)
class Skip:
    """A source that is left out, or a frame of it.

    ``detail`` says more in words and numbers of this program (a SOP class or transfer syntax by its
    name in the standard, a measured distance), never in text taken from a file: reports print it.
    """

    path: str
    reason: Reason
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where the 16-bit pixels of an uncompressed file lie, and what they mean; see ``native``.

    ``offset``: bytes before the first pixel. ``size`` and ``mtime_ns``: of the file when its header was read.
    ``kind``: numpy's name of a stored value, as ``<u2``. ``bits`` and ``high``: BitsStored and HighBit (PS3.5 8.1.1).
    HU = ``slope`` * stored + ``intercept``; ``padding``: lowest and highest stored value that is no measurement.
    """

    offset: int
    size: int
    mtime_ns: int
    kind: str
    bits: int
    high: int
    slope: float
    intercept: float
    padding: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Header:
    """One CT slice that may be used: a file, or a frame of a multi-frame file.

    ``position`` is ImagePositionPatient (LPS mm, centre of the first pixel), ``orientation``
    ImageOrientationPatient (unit vectors of increasing column, then of increasing row),
    ``spacing`` PixelSpacing (mm between rows, mm between columns): DICOM PS3.3 C.7.6.2.
    ``frame``: the number of the frame, from 1; 0 in a single-frame file. ``primary``: ImageType value 2 is PRIMARY.
    ``acquisition``: AcquisitionNumber and the values of ImageType, as one text to compare by.
    ``thickness``: SliceThickness in mm, 0 when not given. ``kernel``: ConvolutionKernel, its values
    joined by a backslash. ``vendor``: Manufacturer. ``syntax``: TransferSyntaxUID, empty when not given.
    ``pixels``: where they can be read without parsing the file again, None where they can't.
    """

    path: str
    patient_id: str
    study_uid: str
    series_uid: str
    sop_uid: str
    frame_of_reference: str
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float, float, float]
    spacing: tuple[float, float]
    rows: int
    columns: int
    frame: int
    original: bool
    primary: bool
    acquisition: str
    thickness: float
    kernel: str
    vendor: str
    syntax: str
    pixels: Pixels | None = None

    @property
    def slice_id(self) -> str:
        """What names the slice in a label table: SOP instance UID, with ``#`` and the frame if it is one of several.

        Where the UID is missing, the source stands for it.
        """
        name = self.sop_uid or self.path
        return f"{name}#{self.frame}" if self.frame else name


@dataclass(frozen=True, slots=True)
class Annotation:
    """An RTSTRUCT or a segmentation: no slice, but a source of labels where the study names a structure."""

    path: str
    patient_id: str
    kind: str
    """``rtstruct`` or ``seg``."""


Found = Header | Annotation | Skip
"""What reading the header of a source can yield; a multi-frame file yields one ``Header`` a frame."""
