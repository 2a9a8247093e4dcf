"""Read the header of a source and say what it is: slices that may be used, a source of labels, or why neither.

A source is recognised by its content, never by its name: a DICM prefix after the preamble, or a bare
data set that begins with group 0002 or 0008. Pixels are not read here. Headers are parsed from a block of
bytes whose size and number of items are bounded first, so that no file can take memory or time without end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset, config
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import ENCODED_VR, data_element_generator, read_dataset, read_partial
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import BaseTag
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    MultiFrameSingleBitSecondaryCaptureImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from client.ingest.attributes import Attributes, Elements, codes, name_of, numbers, text, values, whole
from client.ingest.enhanced import PER_FRAME, SHARED, read_frames
from client.ingest.native import Place, locate
from client.ingest.records import MEMBER, Annotation, Found, Reason, Skip
from client.ingest.slices import MAXIMUM_SIDE, MAXIMUM_VOXELS, Common, Making, Placement, make_header
from client.ingest.sources import MAXIMUM_BYTES, SourceError, Stream, archive_members, is_archive, open_source

HEADER_BLOCKS = (64 * 1024, 64 * 2**20)
"""Bytes that are read of a source: first as many as most headers have, then as many as any may have."""
MAXIMUM_ITEMS = 2**18
"""Most items of sequences in a header: 64 for each of 4096 frames."""
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # the item tag, little and big endian
_LAST_GROUP, _LAST_OF_ENHANCED = 0x3000, 0x7FE0
_NATIVE = frozenset(
    {"", ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_ENCAPSULATED = frozenset(
    {
        RLELossless,
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
    }
)
_CODINGS = {syntax.encode(): syntax for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, *_ENCAPSULATED)}
_META, _META_GROUP, _SYNTAX_TAG = 132, 2, 0x00020010  # where file meta information begins, after the preamble
_META_VRS = frozenset(("UL", "OB", "UI", "SH", "AE", "UR"))  # PS3.10 7.1
_ENHANCED = frozenset({EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
_CAPTURES = frozenset(
    {
        SecondaryCaptureImageStorage,
        MultiFrameSingleBitSecondaryCaptureImageStorage,
        MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
_ANNOTATIONS: dict[str, str] = {RTStructureSetStorage: "rtstruct", SegmentationStorage: "seg"}
_KEYWORDS = (
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "Manufacturer",
    "PatientID",
    "SliceThickness",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BurnedInAnnotation",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    SHARED,
    PER_FRAME,
)
_TAGS: list[BaseTag | int] = [BaseTag(tag) for tag in map(tag_for_keyword, _KEYWORDS) if tag is not None]


def read_sources(root: Path, sources: list[str]) -> list[list[Found]]:
    """``read_source`` of each of ``sources``; the unit of work of a process."""
    with quiet():
        return [_read_source(root, source) for source in sources]


def read_source(root: Path, source: str) -> list[Found]:
    """What ``source`` under ``root`` holds: headers, one annotation, or one skip. Never empty, never raises."""
    with quiet():
        return _read_source(root, source)


def _read_source(root: Path, source: str) -> list[Found]:
    try:
        with open_source(root, source) as stream:
            return _read_stream(root, source, stream)
    except SourceError as error:
        return [Skip(source, error.reason, error.detail)]
    except OSError:
        return [Skip(source, Reason.UNREADABLE)]
    except Exception:  # whatever pydicom raises on damaged files, and lack of memory
        return [Skip(source, Reason.BAD_HEADER)]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log of pydicom: both quote values. What it finds odd is judged here, value by value."""
    before = config.logger.disabled
    config.logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        config.logger.disabled = before


def _read_stream(root: Path, source: str, stream: Stream) -> list[Found]:
    start = stream.peek(132)
    bare = start[128:132] != b"DICM"
    if bare and is_archive(start):
        return [_judge_archive(root, source)]
    if bare and not _begins_data_set(start):
        return [Skip(source, Reason.NOT_DICOM)]
    if stream.size is not None and stream.size > MAXIMUM_BYTES:
        return [Skip(source, Reason.TOO_LARGE, f"more than {MAXIMUM_BYTES} bytes")]
    parsed = _parse(stream, bare, _LAST_GROUP)
    kind = _kind(parsed)
    if kind in _ENHANCED or (kind == CTImageStorage and whole(parsed.dataset, "NumberOfFrames", 1) > 1):
        parsed = _parse(stream, bare, _LAST_OF_ENHANCED)
    return _judge(parsed, kind, source)


def _begins_data_set(start: bytes) -> bool:
    """Whether bytes without a preamble begin with an element of group 0002 or 0008."""
    if len(start) < 16:
        return False
    little = start[0] in (2, 8) and start[1] == 0 and start[3] == 0
    big = start[:3] == b"\0\x08\0" and start[4:6].isalpha() and start[4:6].isupper()  # big endian has explicit VR
    return little or big


def _judge_archive(root: Path, source: str) -> Skip:
    if MEMBER in source and not (root / source).is_file():
        return Skip(source, Reason.BAD_ARCHIVE, "an archive within an archive")
    members = archive_members(root, source)
    return members if isinstance(members, Skip) else Skip(source, Reason.ARCHIVE)


class _Parsed(NamedTuple):
    """A header: its data set and file meta information, and what follows it in the source."""

    dataset: Attributes
    meta: Attributes | None
    place: Place

    @property
    def rest(self) -> int | None:
        """Bytes after the header, None if unknown."""
        return None if self.place.size is None else self.place.size - self.place.start


def _parse(stream: Stream, bare: bool, last_group: int) -> _Parsed:
    """The data set up to ``last_group``.

    Raises SourceError if it is larger than any header, else what pydicom raises.
    """
    for size in HEADER_BLOCKS:
        stream.seek(0)
        block = stream.read(size)
        if len(block) > 8 * MAXIMUM_ITEMS and sum(map(block.count, _ITEMS)) > MAXIMUM_ITEMS:
            raise SourceError(Reason.TOO_LARGE, f"more than {MAXIMUM_ITEMS} items in the header")
        end = _End(last_group)
        content = io.BytesIO(block)
        try:
            dataset, meta = (None if bare else _read_plain(content, end)) or _read_any(content, bare, end)
        except Exception:  # cut off within an element, if it is no damage
            if len(block) < size:
                raise
            continue
        if end.reached or len(block) < size:
            return _Parsed(dataset, meta, Place(*end.at, content.tell(), stream.size, stream.mtime_ns))
    raise SourceError(Reason.TOO_LARGE, f"more than {HEADER_BLOCKS[-1]} bytes of header")


def _read_any(content: io.BytesIO, bare: bool, end: _End) -> tuple[Attributes, Attributes | None]:
    content.seek(0)
    dataset = read_partial(content, stop_when=end, force=bare, specific_tags=_TAGS)
    return dataset, getattr(dataset, "file_meta", None)


def _read_plain(content: io.BytesIO, end: _End) -> tuple[Attributes, Attributes] | None:
    """What ``_read_any`` gives, in half the time, where nothing has to be guessed; else None.

    That is: file meta information with one of the syntaxes of CT, and after it at once a data set in that syntax
    (PS3.10 7.1), which begins with group 0008 and a VR of the standard if it is explicit.
    """
    content.seek(_META)
    found = data_element_generator(content, False, True, stop_when=_beyond_meta)
    meta: dict[int, RawDataElement | DataElement] = {int(element.tag): element for element in found}
    syntax = getattr(meta.get(_SYNTAX_TAG), "value", None)
    coding = _CODINGS.get(syntax.rstrip(b"\0 ")) if isinstance(syntax, bytes) else None
    if coding is None or any(element.VR not in _META_VRS for element in meta.values()):
        return None
    implicit = coding == ImplicitVRLittleEndian
    start = content.tell()
    group, vr = content.read(2), content.read(4)[2:]
    content.seek(start)
    if group != b"\x08\0" or (vr in ENCODED_VR) == implicit:
        return None
    elements = data_element_generator(content, implicit, True, stop_when=end, specific_tags=_TAGS)
    raw: dict[int, RawDataElement | DataElement] = {int(element.tag): element for element in elements}
    full = functools.partial(_read_whole, content, start, implicit, end.last_group)
    return Elements(raw, full), Elements(meta, Dataset)


def _read_whole(content: io.BytesIO, start: int, implicit: bool, last_group: int) -> Dataset:
    content.seek(start)
    return read_dataset(content, implicit, True, stop_when=_End(last_group), specific_tags=_TAGS)


def _beyond_meta(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag >> 16 != _META_GROUP


class _End:
    """Stops pydicom at the first element of a later group, and tells that it was there and which: tag, VR, length."""

    def __init__(self, last_group: int) -> None:
        self.last_group = last_group
        self.reached = False
        self.at: tuple[BaseTag | int, str | None, int] = (0, None, 0)

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        self.reached = tag >> 16 >= self.last_group
        self.at = tag, vr, length
        return self.reached


def _kind(parsed: _Parsed) -> str:
    """The SOP class; where none is given and the modality is CT, CT Image Storage."""
    given = text(parsed.dataset, "SOPClassUID") or text(parsed.meta, "MediaStorageSOPClassUID")
    return given or (CTImageStorage if codes(parsed.dataset, "Modality") == ["CT"] else "")


def _judge(parsed: _Parsed, kind: str, source: str) -> list[Found]:
    """Headers, annotation or skip, in the order in which a reader would ask."""
    dataset = parsed.dataset
    if kind in _ANNOTATIONS:
        return [Annotation(source, text(dataset, "PatientID"), _ANNOTATIONS[kind])]
    syntax = text(parsed.meta, "TransferSyntaxUID")
    for refusal in (_refuse_kind(dataset, kind), _refuse_pixels(dataset, syntax, parsed.rest)):
        if refusal is not None:
            return [Skip(source, *refusal)]
    common = Common(
        path=source,
        patient_id=text(dataset, "PatientID"),
        study_uid=text(dataset, "StudyInstanceUID"),
        series_uid=text(dataset, "SeriesInstanceUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        rows=whole(dataset, "Rows", 0),
        columns=whole(dataset, "Columns", 0),
        vendor=text(dataset, "Manufacturer"),
        syntax=syntax,
    )
    if kind in _ENHANCED or whole(dataset, "NumberOfFrames", 1) > 1:
        found = read_frames(dataset, common)
    else:
        found = [_read_slice(dataset, common, parsed.place)]
    if not common.patient_id and not all(isinstance(one, Skip) for one in found):
        return [Skip(source, Reason.NO_PATIENT_ID)]
    return found


def _read_slice(dataset: Attributes, common: Common, place: Place) -> Found:
    """The one slice of a single-frame file."""
    placement = Placement(
        position=numbers(dataset, "ImagePositionPatient"),
        orientation=numbers(dataset, "ImageOrientationPatient"),
        spacing=numbers(dataset, "PixelSpacing"),
        slope=numbers(dataset, "RescaleSlope"),
        intercept=numbers(dataset, "RescaleIntercept"),
        has_table=bool(values(dataset, "ModalityLUTSequence")),
    )
    fault = placement.fault()
    if fault is not None:
        return Skip(common.path, *fault)
    making = Making(
        image_type=tuple(codes(dataset, "ImageType")),
        acquisition=text(dataset, "AcquisitionNumber"),
        thickness=numbers(dataset, "SliceThickness"),
        kernel=text(dataset, "ConvolutionKernel"),
    )
    pixels = None
    if not placement.has_table:
        pixels = locate(dataset, common.syntax, place, placement.slope[0], placement.intercept[0])
    return make_header(common, placement, making, frame=0, pixels=pixels)


def _refuse_kind(dataset: Attributes, kind: str) -> tuple[Reason, str] | None:
    """Why the object is no CT image to learn from, or None if it is one."""
    image_type = {value.replace("_", " ") for value in codes(dataset, "ImageType")}
    is_capture = "SECONDARY" in image_type and bool(image_type & {"SCREEN SAVE", "SECONDARY CAPTURE"})
    checks = (
        (kind == MediaStorageDirectoryStorage, Reason.DICOMDIR, ""),
        (kind in _CAPTURES, Reason.SCREEN_SAVE, name_of(kind)),
        (kind != CTImageStorage and kind not in _ENHANCED, Reason.NOT_CT, name_of(kind)),
        ("LOCALIZER" in image_type, Reason.LOCALIZER, ""),
        (is_capture, Reason.SCREEN_SAVE, name_of(kind)),
        ("YES" in codes(dataset, "BurnedInAnnotation"), Reason.BURNED_IN_TEXT, ""),
    )
    return next(((reason, detail) for bad, reason, detail in checks if bad), None)


def _refuse_pixels(dataset: Attributes, syntax: str, rest: int | None) -> tuple[Reason, str] | None:
    """Why pixels of this size and form can't be taken, or None. ``rest``: bytes after the header, None if unknown."""
    rows, columns = whole(dataset, "Rows", 0), whole(dataset, "Columns", 0)
    frames, samples = whole(dataset, "NumberOfFrames", 1), whole(dataset, "SamplesPerPixel", 1)
    bits = whole(dataset, "BitsAllocated", 16)
    needed = rows * columns * frames * bits // 8
    checks = (
        (samples < 1, Reason.BAD_HEADER, "SamplesPerPixel"),
        (samples > 1, Reason.COLOUR, ""),
        (not is_supported(syntax), Reason.UNSUPPORTED_SYNTAX, name_of(syntax)),
        (rows == 0 or columns == 0, Reason.NO_GEOMETRY, "Rows" if rows == 0 else "Columns"),
        (min(rows, columns) < 0, Reason.BAD_HEADER, "Rows" if rows < 0 else "Columns"),
        (frames < 1, Reason.BAD_HEADER, "NumberOfFrames"),
        (bits not in (1, 8, 16, 32, 64), Reason.BAD_HEADER, "BitsAllocated"),
        (max(rows, columns) > MAXIMUM_SIDE, Reason.TOO_LARGE, f"{rows} x {columns} pixels"),
        (rows * columns * frames > MAXIMUM_VOXELS, Reason.TOO_LARGE, f"{frames} frames of {rows} x {columns} pixels"),
        (syntax in _NATIVE and rest is not None and rest <= needed, Reason.PIXELS_UNREADABLE, "truncated"),
    )
    return next(((reason, detail) for bad, reason, detail in checks if bad), None)


@functools.cache
def is_supported(syntax: str) -> bool:
    """Whether pixels in this transfer syntax can be decoded here; an empty one is a native form."""
    if syntax in _NATIVE:
        return True
    return syntax in _ENCAPSULATED and bool(get_decoder(UID(syntax)).is_available)
