"""Stored pixels to Hounsfield units."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray

AIR_HU = -1024
HIGHEST_HU = 10_000
"""Values are clipped to AIR_HU..HIGHEST_HU; the study's windows lie within."""


class PixelsUnreadable(Exception):  # noqa: N818  a value of the pipeline, turned into a Skip by the caller
    """Pixel data of a slice are missing, truncated, of another size or can't be decoded."""


def read_volume(root: Path, paths: Sequence[str], rows: int, columns: int) -> NDArray[np.int16]:
    """Slices at ``root / path`` in the order given, as HU, int16 [slices, rows, columns].

    Raises PixelsUnreadable if any slice can't be read: a volume with a hole is no volume.
    """
    try:
        volume = np.empty((len(paths), rows, columns), dtype=np.int16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for index, path in enumerate(paths):
                volume[index] = to_hounsfield(pydicom.dcmread(root / path, force=True), rows, columns)
    except Exception as error:  # decoders raise many kinds on damaged data
        raise PixelsUnreadable(type(error).__name__) from error
    return volume


def to_hounsfield(dataset: pydicom.Dataset, rows: int, columns: int) -> NDArray[np.int16]:
    """HU = slope * stored + intercept with the slice's own slope and intercept (PS3.3 C.11.1).

    Padding (PixelPaddingValue, up to PixelPaddingRangeLimit; PS3.3 C.7.5.1.1.2) becomes air. Raises
    PixelsUnreadable if the image is not [rows, columns], or whatever the decoder raises.
    """
    if not getattr(dataset.file_meta, "TransferSyntaxUID", None):
        dataset.file_meta.TransferSyntaxUID = _plain_syntax(dataset)
    stored = dataset.pixel_array
    if stored.shape != (rows, columns):
        raise PixelsUnreadable(f"image is {stored.shape}")
    hounsfield = stored.astype(np.float32) * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    padding = _padding(dataset, stored)
    if padding is not None:
        hounsfield[padding] = AIR_HU
    clipped: NDArray[np.int16] = np.rint(np.clip(hounsfield, AIR_HU, HIGHEST_HU)).astype(np.int16)
    return clipped


def _plain_syntax(dataset: pydicom.Dataset) -> pydicom.uid.UID:
    """The uncompressed syntax in which a data set without file meta was found to be written."""
    implicit, little = dataset.original_encoding
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian


def _padding(dataset: pydicom.Dataset, stored: NDArray[np.int16]) -> NDArray[np.bool_] | None:
    """Where the slice is padding, or None when it declares none."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = sorted(_as_stored(int(end), dataset) for end in (value, value if limit in (None, "") else limit))
    return (stored >= ends[0]) & (stored <= ends[1])


def _as_stored(value: int, dataset: pydicom.Dataset) -> int:
    """``value`` in the sign of the pixels: scanners write -2000 as 63536 and the other way round."""
    bits = int(dataset.BitsAllocated)
    value %= 1 << bits
    if int(dataset.PixelRepresentation) == 1 and value >= 1 << (bits - 1):
        value -= 1 << bits
    return value
