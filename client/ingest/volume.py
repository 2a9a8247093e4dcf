"""Stored pixels to Hounsfield units."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut

from client.ingest import attributes
from client.ingest.frames import PixelsUnreadable, Stored, mask_bits, read_frames, used_bits
from client.ingest.native import padding_of, read_native
from client.ingest.overlay_text import has_overlaid_text
from client.ingest.plausibility import BINS, count_hu
from client.ingest.records import Pixels
from client.ingest.sources import open_source

AIR_HU = -1024
HIGHEST_HU = 10_000
"""Values are clipped to AIR_HU..HIGHEST_HU; the study's windows lie within."""
_SAMPLES = 64  # values a side of a slice that its histogram counts
_TAGS = [
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
]


class Slice(NamedTuple):
    """A slice to read: its source, its frame (from 1; 0 in a single-frame file), and its pixels where they are known."""

    path: str
    frame: int = 0
    pixels: Pixels | None = None


Part = tuple[slice, slice]
WHOLE: Part = (slice(None), slice(None))


@dataclass(frozen=True)
class Volume:
    """``hounsfield``: int16 [slices, rows, columns], of the part that was asked for.

    Of the whole slices: ``histogram``: int64 [plausibility.BINS], of a regular sample of the values before
    clipping, without padding. ``written``: how many show text that was drawn into them.
    """

    hounsfield: NDArray[np.int16]
    histogram: NDArray[np.int64]
    written: int


def read_volume(root: Path, slices: Sequence[Slice], rows: int, columns: int, part: Part = WHOLE) -> Volume:
    """The slices, sources under ``root``, in their order; of each the rows and columns ``part`` are kept.

    Every file is read once, and only the frames named are decoded. Raises PixelsUnreadable if any slice
    can't be read: a volume with a hole is no volume. Where all slices have their ``pixels``, nothing of the
    process is touched that threads share.
    """
    try:
        reader = _Reader.of(len(slices), rows, columns, part)
        with np.errstate(all="ignore"):
            if all(one.pixels for one in slices):
                _read_native(root, slices, reader)
            else:
                _read_parsed(root, slices, reader)
    except Exception as error:  # decoders raise many kinds on damaged data
        raise PixelsUnreadable(type(error).__name__) from error
    return Volume(reader.hounsfield, reader.histogram, reader.written)


@dataclass
class _Reader:
    """A volume under way; ``whole`` holds one slice at a time, which stays in the processor's cache."""

    hounsfield: NDArray[np.int16]
    histogram: NDArray[np.int64]
    whole: NDArray[np.int16]
    part: Part
    written: int = 0

    @classmethod
    def of(cls, count: int, rows: int, columns: int, part: Part) -> _Reader:
        whole = np.empty((rows, columns), dtype=np.int16)
        return cls(np.empty((count, *whole[part].shape), np.int16), np.zeros(BINS, np.int64), whole, part)

    def take(self, index: int, stored: Stored, scale: Scale) -> None:
        """Slice ``index`` of the volume."""
        to_hounsfield(stored, scale, self.whole, self.histogram)
        self.written += has_overlaid_text(self.whole)
        self.hounsfield[index] = self.whole[self.part]


def _read_native(root: Path, slices: Sequence[Slice], reader: _Reader) -> None:
    buffer = np.empty(reader.whole.nbytes, np.uint8)
    for index, one in enumerate(slices):
        if one.pixels is not None:
            reader.take(
                index, read_native(root / one.path, one.pixels, reader.whole.shape, buffer), Scale.known(one.pixels)
            )


def _read_parsed(root: Path, slices: Sequence[Slice], reader: _Reader) -> None:
    rows, columns = reader.whole.shape
    wanted: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(slices):
        wanted[one.path].append(index)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source, indices in wanted.items():
            with open_source(root, source) as stream:
                dataset = pydicom.dcmread(stream, force=True, specific_tags=list(_TAGS))
            frames = [max(slices[index].frame - 1, 0) for index in indices]
            for index, frame, stored in zip(indices, frames, _frames(dataset, frames, rows, columns), strict=True):
                reader.take(index, stored, Scale.of(dataset, frame))


def _frames(dataset: pydicom.Dataset, frames: list[int], rows: int, columns: int) -> list[Stored]:
    """All ``frames`` of one file, decoded."""
    if not getattr(dataset.file_meta, "TransferSyntaxUID", None):
        dataset.file_meta.TransferSyntaxUID = _plain_syntax(dataset)
    return list(read_frames(dataset, frames, rows, columns))


def _plain_syntax(dataset: pydicom.Dataset) -> pydicom.uid.UID:
    """The uncompressed syntax in which a data set without file meta was found to be written."""
    implicit, little = dataset.original_encoding
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian


@dataclass(frozen=True)
class Scale:
    """What takes the stored values of one frame to HU.

    ``table``: the data set, where a ModalityLUTSequence takes the place of ``slope`` and ``intercept``.
    ``padding``: lowest and highest stored value that is no measurement. ``bits``, ``high``: where in a word of
    uncompressed pixels the value lies (BitsStored, HighBit).
    """

    slope: float
    intercept: float
    table: pydicom.Dataset | None
    padding: tuple[int, int] | None
    bits: int = 64
    high: int = 63

    @classmethod
    def known(cls, pixels: Pixels) -> Scale:
        """As it was found with the header."""
        return cls(pixels.slope, pixels.intercept, None, pixels.padding, pixels.bits, pixels.high)

    @classmethod
    def of(cls, dataset: pydicom.Dataset, frame: int) -> Scale:
        """The frame's own transformation before that of all frames, before that of the file (PS3.3 C.7.6.16.2.9)."""
        table = dataset if dataset.get("ModalityLUTSequence") else None
        source = dataset
        shared = dataset.get("SharedFunctionalGroupsSequence") or []
        own = (dataset.get("PerFrameFunctionalGroupsSequence") or [])[frame : frame + 1]
        for groups in (*own, *shared[:1]):
            found = groups.get("PixelValueTransformationSequence")
            if found:
                source, table = found[0], None
                break
        scale = (1.0, 0.0) if table is not None else (float(source.RescaleSlope), float(source.RescaleIntercept))
        allocated = int(dataset.BitsAllocated)
        used = allocated, allocated - 1
        if not dataset.file_meta.TransferSyntaxUID.is_encapsulated:  # a decoder has masked what it gives
            used = used_bits(
                attributes.whole(dataset, "BitsStored", -1), attributes.whole(dataset, "HighBit", -1), allocated
            )
        value, limit = (
            attributes.values(dataset, "PixelPaddingValue"),
            attributes.values(dataset, "PixelPaddingRangeLimit"),
        )
        padding = padding_of(value, limit, allocated, signed=int(dataset.PixelRepresentation) == 1)
        return cls(*scale, table, padding, *used)

    def small(self, stored: Stored) -> bool:
        """Whether HU come by adding an integer so small that 16 bits hold the clipped sum: most CT, and faster."""
        whole = self.table is None and self.slope == 1 and self.intercept.is_integer()
        return whole and -(2**14) <= self.intercept <= HIGHEST_HU and stored.dtype.itemsize == 2

    def apply(self, stored: Stored) -> NDArray[np.floating]:
        """HU = slope * stored + intercept, or by table (PS3.3 C.11.1), not clipped."""
        if self.table is not None:
            return np.asarray(apply_modality_lut(stored, self.table), dtype=np.float32)
        return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def to_hounsfield(stored: Stored, scale: Scale, out: NDArray[np.int16], histogram: NDArray[np.int64]) -> None:
    """Write the HU of one frame to ``out`` and add a sample of them to ``histogram``.

    Padding (PixelPaddingValue, up to PixelPaddingRangeLimit; PS3.3 C.7.5.1.1.2) becomes air and is not counted;
    scanners write it over the bits that are not stored too.
    """
    values = mask_bits(stored, scale.bits, scale.high)
    sparse = tuple(slice(None, None, max(1, side // _SAMPLES)) for side in values.shape)
    sample = scale.apply(values[sparse])
    if scale.small(values):
        _shift(values, int(scale.intercept), out)
    else:
        out[:] = np.rint(np.clip(scale.apply(values), AIR_HU, HIGHEST_HU))
    if scale.padding is not None:
        padding = _within(stored, scale.padding)
        if values is not stored:
            padding |= _within(values, scale.padding)
        sample = sample[~padding[sparse]]
        out[padding] = AIR_HU
    histogram += count_hu(sample)


def _shift(values: Stored, shift: int, out: NDArray[np.int16]) -> None:
    """``values`` of 16 bits + ``shift``, clipped."""
    held = np.iinfo(values.dtype)
    low, high = max(AIR_HU - shift, held.min), min(HIGHEST_HU - shift, held.max)
    if values.min() < low or values.max() > high:  # rarely, and clipping takes longer than all the rest
        values = np.clip(values, low, high)
    np.add(values.view(np.int16), shift, out=out)  # 16 bits hold the sum


def _within(stored: Stored, ends: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray((stored >= ends[0]) & (stored <= ends[1]))
