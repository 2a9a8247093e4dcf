"""The image size that a compressed frame itself declares, read before any decoder takes memory for it.

A header may say 512 x 512 while the code stream says 65535 x 65535: decoders believe the stream.
"""

from __future__ import annotations

from typing import NamedTuple

_JP2_SIGNATURE = bytes.fromhex("0000000c6a5020200d0a870a")
_SOC_SIZ = bytes.fromhex("ff4fff51")
_SOI = b"\xff\xd8"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""SOF0..SOF15 of ISO/IEC 10918-1 B.1.1.3 without DHT, JPG and DAC, and SOF55 of JPEG-LS (ISO/IEC 14495-1 C.1)."""
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # markers without a length: RSTn, TEM
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_RLE_HEADER = 64
_MOST_SEGMENTS = 4096
_MOST_TILES = 65_535  # ISO/IEC 15444-1 A.4.2: tile numbers have 16 bits


class Size(NamedTuple):
    """What a code stream declares."""

    rows: int
    columns: int
    components: int


def declared_size(frame: bytes) -> Size | None:
    """Size of a JPEG, JPEG-LS, JPEG 2000 or HTJ2K frame; None when none can be read. Never raises.

    Of the whole frame only markers are looked at; entropy-coded data are not.
    """
    if frame.startswith(_SOI):
        return _jpeg(frame)
    if frame.startswith(_JP2_SIGNATURE):
        return _jpeg2000(frame, _code_stream_box(frame))
    return _jpeg2000(frame, 0)


def _jpeg(frame: bytes) -> Size | None:
    """The first frame header before the first scan; None if there is none, or more than one."""
    found: Size | None = None
    at = len(_SOI)
    for _ in range(_MOST_SEGMENTS):
        if at + 2 > len(frame) or frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return found
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _ALONE:
            at += 2
            continue
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(frame):
            return None
        if marker in _FRAME_HEADERS:
            if found is not None or length < 8:
                return None
            rows, columns = (int.from_bytes(frame[at + k : at + k + 2], "big") for k in (5, 7))
            found = Size(rows, columns, frame[at + 9])
        at += 2 + length
    return None


def _jpeg2000(frame: bytes, start: int) -> Size | None:
    """The SIZ segment, which is the first (ISO/IEC 15444-1 A.5.1); HTJ2K shares it (15444-15)."""
    if start < 0 or frame[start : start + 4] != _SOC_SIZ or len(frame) < start + 42:
        return None
    right, bottom, left, top, wide, high, tile_left, tile_top = (
        int.from_bytes(frame[at : at + 4], "big") for at in range(start + 8, start + 40, 4)
    )
    components = int.from_bytes(frame[start + 40 : start + 42], "big")
    if min(wide, high) == 0 or right <= max(left, tile_left) or bottom <= max(top, tile_top):
        return None
    tiles = -((right - tile_left) // -wide) * -((bottom - tile_top) // -high)
    return Size(bottom - top, right - left, components) if tiles <= _MOST_TILES else None


def _code_stream_box(frame: bytes) -> int:
    """Where the contiguous code stream of a JP2 file begins (ISO/IEC 15444-1 I.5.4); -1 if nowhere."""
    at = 0
    for _ in range(_MOST_SEGMENTS):
        length, kind, head = int.from_bytes(frame[at : at + 4], "big"), frame[at + 4 : at + 8], 8
        if length == 1:
            length, head = int.from_bytes(frame[at + 8 : at + 16], "big"), 16
        if kind == b"jp2c":
            return at + head
        if length < head or at + length > len(frame):
            return -1
        at += length
    return -1


def rle_size(frame: bytes, pixels: int) -> int | None:
    """Bytes a pixel of an RLE frame (PS3.5 annex G) whose every segment expands to ``pixels`` bytes.

    None for any other frame, found without expanding it. Two bytes of run can stand for 128 pixels.
    """
    starts = [int.from_bytes(frame[at : at + 4], "little") for at in range(0, _RLE_HEADER, 4)]
    count, starts = starts[0], starts[1:]
    if not 1 <= count <= len(starts) or starts[0] != _RLE_HEADER:
        return None
    ends = [*starts[1:count], len(frame)]
    segments = zip(starts[:count], ends, strict=True)
    return count if all(_expands_to(frame, start, end, pixels) for start, end in segments) else None


def _expands_to(frame: bytes, start: int, end: int, wanted: int) -> bool:
    """Whether the runs in ``frame[start:end]`` make ``wanted`` bytes; one byte of padding may follow."""
    at = start
    left = wanted
    while left > 0 and at < end:
        head = frame[at]
        if head < 128:
            left -= head + 1
            at += head + 2
        elif head > 128:
            left -= 257 - head
            at += 2
        else:
            at += 1
    return left == 0 and at <= end <= len(frame) and end - at <= 1
