"""Stored pixels to Hounsfield units."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_modality_lut

from client.ingest.frames import PixelsUnreadable, Stored, read_frames
from client.ingest.plausibility import BINS, count_hu
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


@dataclass(frozen=True)
class Volume:
    """``hounsfield``: int16 [slices, rows, columns]. ``histogram``: int64 [plausibility.BINS], of a regular
    sample of the values before clipping, without padding.
    """

    hounsfield: NDArray[np.int16]
    histogram: NDArray[np.int64]


def read_volume(root: Path, slices: Sequence[tuple[str, int]], rows: int, columns: int) -> Volume:
    """The slices, each a source under ``root`` and a frame (from 1; 0 in a single-frame file), in their order.

    Every file is read once, and only the frames named are decoded. Raises PixelsUnreadable if any slice
    can't be read: a volume with a hole is no volume.
    """
    wanted: dict[str, list[int]] = defaultdict(list)
    for index, (source, _) in enumerate(slices):
        wanted[source].append(index)
    try:
        volume = Volume(np.empty((len(slices), rows, columns), dtype=np.int16), np.zeros(BINS, dtype=np.int64))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for source, indices in wanted.items():
                with open_source(root, source) as stream:
                    dataset = pydicom.dcmread(stream, force=True, specific_tags=list(_TAGS))
                frames = [max(slices[index][1] - 1, 0) for index in indices]
                for index, frame, stored in zip(indices, frames, _frames(dataset, frames, rows, columns), strict=True):
                    to_hounsfield(stored, _Scale.of(dataset, frame), volume.hounsfield[index], volume.histogram)
    except Exception as error:  # decoders raise many kinds on damaged data
        raise PixelsUnreadable(type(error).__name__) from error
    return volume


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
class _Scale:
    """What takes the stored values of one frame to HU.

    ``table``: the data set, where a ModalityLUTSequence takes the place of ``slope`` and ``intercept``.
    ``padding``: lowest and highest stored value that is no measurement.
    """

    slope: float
    intercept: float
    table: pydicom.Dataset | None
    padding: tuple[int, int] | None

    @classmethod
    def of(cls, dataset: pydicom.Dataset, frame: int) -> _Scale:
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
        return cls(*scale, table, _padding(dataset))

    def small(self, stored: Stored) -> bool:
        """Whether HU come by adding an integer so small that 16 bits hold the clipped sum: most CT, and faster."""
        whole = self.table is None and self.slope == 1 and self.intercept.is_integer()
        return whole and abs(self.intercept) <= 2**14 and stored.dtype.itemsize == 2

    def apply(self, stored: Stored) -> NDArray[np.floating]:
        """HU = slope * stored + intercept, or by table (PS3.3 C.11.1), not clipped."""
        if self.table is not None:
            return np.asarray(apply_modality_lut(stored, self.table), dtype=np.float32)
        return stored.astype(np.float32) * np.float32(self.slope) + np.float32(self.intercept)


def to_hounsfield(stored: Stored, scale: _Scale, out: NDArray[np.int16], histogram: NDArray[np.int64]) -> None:
    """Write the HU of one frame to ``out`` and add a sample of them to ``histogram``.

    Padding (PixelPaddingValue, up to PixelPaddingRangeLimit; PS3.3 C.7.5.1.1.2) becomes air and is not counted.
    """
    sparse = tuple(slice(None, None, max(1, side // _SAMPLES)) for side in stored.shape)
    sample = scale.apply(stored[sparse])
    if scale.small(stored):
        shift, held = int(scale.intercept), np.iinfo(stored.dtype)
        ends = max(AIR_HU - shift, held.min), min(HIGHEST_HU - shift, held.max)
        np.clip(stored, *ends, out=out.view(f"{stored.dtype.kind}2"))  # 16 bits hold it either way
        np.add(out, shift, out=out)
    else:
        out[:] = np.rint(np.clip(scale.apply(stored), AIR_HU, HIGHEST_HU))
    if scale.padding is not None:
        padding = (stored >= scale.padding[0]) & (stored <= scale.padding[1])
        sample = sample[~padding[sparse]]
        out[padding] = AIR_HU
    histogram += count_hu(sample)


def _padding(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """Lowest and highest stored value of padding, or None when none is declared."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted(_as_stored(int(end), dataset) for end in (value, value if limit in (None, "") else limit))
    return low, high


def _as_stored(value: int, dataset: pydicom.Dataset) -> int:
    """``value`` in the sign of the pixels: scanners write -2000 as 63536 and the other way round."""
    bits = int(dataset.BitsAllocated)
    value %= 1 << bits
    if int(dataset.PixelRepresentation) == 1 and value >= 1 << (bits - 1):
        value -= 1 << bits
    return value
