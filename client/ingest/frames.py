"""Stored pixel values of single frames, decoded only after the code stream agrees with the header."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import gdcm
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID, JPEGExtended12Bit, RLELossless

from client.ingest.codestream import declared_size, rle_size

Stored = NDArray[np.integer]


class PixelsUnreadable(Exception):  # noqa: N818  a value of the pipeline, turned into a Skip by the caller
    """Pixel data of a slice are missing, truncated, of another size or can't be decoded."""


def read_frames(dataset: pydicom.Dataset, indices: Sequence[int], rows: int, columns: int) -> Iterator[Stored]:
    """Stored values [rows, columns] of the frames ``indices`` (from 0), in their order.

    Raises PixelsUnreadable, before memory is taken, where header or code stream say another size than
    ``rows`` x ``columns`` or more than one component; what a decoder raises on damaged data is passed on.
    """
    size = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    if size != (rows, columns, 1):
        raise PixelsUnreadable("header of another size")
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    if not syntax.is_encapsulated:
        plain = _plain_type(dataset)
        if plain is not None:
            yield from (_plain_frame(dataset.PixelData, plain, index, rows, columns) for index in indices)
        else:
            yield from _checked(iter_pixels(dataset, indices=indices, raw=True), rows, columns)
        return
    _quiet()
    for index in indices:
        frame = get_frame(dataset.PixelData, index, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
        _check_frame(frame, syntax, dataset)
        if syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8:
            yield _decode_12_bit(frame, rows, columns)
        else:
            yield from _checked(iter_pixels(dataset, indices=[index], raw=True), rows, columns)


def used_bits(bits: int, high: int, allocated: int) -> tuple[int, int]:
    """BitsStored and HighBit; where they can't be, those of values that fill their ``allocated`` bits."""
    return (bits, high) if 1 <= bits <= high + 1 <= allocated else (allocated, allocated - 1)


def mask_bits(stored: Stored, bits: int, high: int) -> Stored:
    """The value within each word: ``bits`` bits up to bit ``high``, in the sign of the type.

    What lies in the others is an overlay or rubbish (PS3.5 8.1.1).
    """
    allocated = 8 * stored.dtype.itemsize
    if bits >= allocated:
        return stored
    if stored.dtype.kind == "i":
        return (stored << (allocated - 1 - high)) >> (allocated - bits)
    value = stored >> (high + 1 - bits) if high + 1 > bits else stored
    return value & stored.dtype.type((1 << bits) - 1)


def _plain_type(dataset: pydicom.Dataset) -> np.dtype[np.integer] | None:
    """Type of stored values that fill whole words, as nearly all uncompressed CT has; None for any other."""
    bits = int(dataset.BitsAllocated)
    if bits not in (16, 32) or dataset["PixelData"].VR == "OB":
        return None
    order = "<" if dataset.original_encoding[1] else ">"
    return np.dtype(f"{order}{'i' if int(dataset.PixelRepresentation) == 1 else 'u'}{bits // 8}")


def _plain_frame(content: bytes, kind: np.dtype[np.integer], index: int, rows: int, columns: int) -> Stored:
    """A frame as it lies in ``content``. Raises ValueError where that is too short."""
    pixels = rows * columns
    frame = np.frombuffer(content, kind, pixels, index * pixels * kind.itemsize)
    return frame.reshape(rows, columns).astype(kind.newbyteorder("="), copy=False)


def _checked(frames: Iterator[Stored], rows: int, columns: int) -> list[Stored]:
    try:
        decoded = list(frames)
    except BaseException as error:  # a panic of a decoder written in Rust is no Exception
        if type(error).__name__ == "PanicException":
            raise PixelsUnreadable("decoder gave up") from None
        raise
    if any(frame.shape != (rows, columns) for frame in decoded):
        raise PixelsUnreadable("image of another size")
    return decoded


def _check_frame(frame: bytes, syntax: UID, dataset: pydicom.Dataset) -> None:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax == RLELossless:
        if rle_size(frame, rows * columns) != int(dataset.BitsAllocated) // 8:
            raise PixelsUnreadable("run lengths of another size")
    elif declared_size(frame) != (rows, columns, 1):
        raise PixelsUnreadable("code stream of another size")


def _decode_12_bit(frame: bytes, rows: int, columns: int) -> Stored:
    """JPEG Extended (process 4) with 12 bits: GDCM decodes it, pydicom's way to it does not offer that."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    decoded = image.GetBuffer().encode("utf-8", "surrogateescape")
    if len(decoded) != 2 * rows * columns:
        raise PixelsUnreadable("image of another size")
    return np.frombuffer(decoded, dtype=np.uint16).reshape(rows, columns)


@functools.cache
def _quiet() -> None:
    """What GDCM prints on damaged data is said by the reason of the skip."""
    gdcm.Trace.WarningOff()
    gdcm.Trace.ErrorOff()
    gdcm.Trace.DebugOff()
