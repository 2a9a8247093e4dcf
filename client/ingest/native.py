"""Uncompressed pixels read straight from their place in the file, which was found while its header was read.

Only what needs no judgement: one frame of 16-bit words (OW) that fills its element to the byte, in a file that is
neither a member of an archive nor deflated. Everything else is parsed again, see ``volume``. A file that is not
as it was when its header was read is refused.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from client.ingest.attributes import Attributes, share, values, whole
from client.ingest.frames import PixelsUnreadable, Stored, used_bits
from client.ingest.records import Pixels

_PIXEL_DATA = 0x7FE00010
_HEADS: dict[str, tuple[str | None, int, str]] = {
    ExplicitVRLittleEndian: ("OW", 12, "<"),
    ExplicitVRBigEndian: ("OW", 12, ">"),
    ImplicitVRLittleEndian: (None, 8, "<"),
}
"""For each syntax the VR of the pixel data as it is read, the bytes before its value, and the byte order."""
_BYTES = 2


@dataclass(frozen=True, slots=True)
class Place:
    """The element after the header: where it begins, and in what file. ``size`` and ``mtime_ns`` as in ``Stream``."""

    tag: BaseTag | int
    vr: str | None
    length: int
    start: int
    size: int | None
    mtime_ns: int | None


def locate(dataset: Attributes, syntax: str, place: Place, slope: float, intercept: float) -> Pixels | None:
    """Where the pixels of a single-frame file lie; None where they have to be looked for."""
    head = _HEADS.get(syntax)
    if head is None or place.size is None or place.mtime_ns is None:
        return None
    vr, before, order = head
    needed = whole(dataset, "Rows", 0) * whole(dataset, "Columns", 0) * _BYTES
    sign, allocated = whole(dataset, "PixelRepresentation", -1), whole(dataset, "BitsAllocated", -1)
    found = place.tag, place.vr, place.length, allocated, whole(dataset, "SamplesPerPixel", 1)
    if found != (_PIXEL_DATA, vr, needed, 8 * _BYTES, 1) or sign not in (0, 1):
        return None
    bits, high = used_bits(whole(dataset, "BitsStored", -1), whole(dataset, "HighBit", -1), allocated)
    try:
        padding = padding_of(
            values(dataset, "PixelPaddingValue"), values(dataset, "PixelPaddingRangeLimit"), allocated, signed=sign == 1
        )
    except (TypeError, ValueError):
        return None
    if place.start + before + needed > place.size:
        return None
    kind = f"{order}{'i' if sign else 'u'}{_BYTES}"
    offset = place.start + before
    return Pixels(
        offset, place.size, place.mtime_ns, share(kind), bits, high, share(slope), share(intercept), share(padding)
    )


def padding_of(value: list[int], limit: list[int], allocated: int, *, signed: bool) -> tuple[int, int] | None:
    """Lowest and highest stored value of padding, from PixelPaddingValue and PixelPaddingRangeLimit; or None.

    Raises ValueError or TypeError where they are no integers.
    """
    if not value:
        return None
    low, high = sorted(_as_stored(int(end[0]), allocated, signed=signed) for end in (value, limit or value))
    return low, high


def _as_stored(value: int, bits: int, *, signed: bool) -> int:
    """``value`` in the sign of the pixels: scanners write -2000 as 63536 and the other way round."""
    value %= 1 << bits
    return value - (1 << bits) if signed and value >= 1 << (bits - 1) else value


def read_native(path: Path, pixels: Pixels, shape: tuple[int, int], buffer: NDArray[np.uint8]) -> Stored:
    """Stored values [rows, columns] as they lie in the file, within ``buffer``, whose bytes they fill.

    Raises PixelsUnreadable where the file was changed since its header was read, OSError where it can't be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if (status.st_size, status.st_mtime_ns) != (pixels.size, pixels.mtime_ns):
            raise PixelsUnreadable("file changed since its header was read")
        if os.preadv(file, [buffer.data], pixels.offset) != len(buffer):
            raise PixelsUnreadable("truncated")
    finally:
        os.close(file)
    stored = buffer.view(pixels.kind).reshape(shape)
    return stored.astype(stored.dtype.newbyteorder("="), copy=False)
