from __future__ import annotations

import struct

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.codestream import Size, declared_size, rle_size

PIXELS = (np.arange(24 * 40).reshape(24, 40) * 3 % 4096).astype(np.uint16)
STREAMS = {
    "JPEG baseline": imagecodecs.jpeg8_encode((PIXELS >> 4).astype(np.uint8)),
    "JPEG extended, 12 bits": imagecodecs.jpeg8_encode(PIXELS, bitspersample=12),
    "JPEG lossless": imagecodecs.ljpeg_encode(PIXELS, bitspersample=12),
    "JPEG-LS": imagecodecs.jpegls_encode(PIXELS),
    "JPEG 2000": imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k", reversible=True),
    "JPEG 2000 in a JP2 file": imagecodecs.jpeg2k_encode(PIXELS, codecformat="jp2", reversible=True),
    "HTJ2K": imagecodecs.htj2k_encode(PIXELS, reversible=True),
}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS.keys())
def test_the_size_is_read_as_it_was_encoded(stream):
    assert declared_size(stream) == Size(24, 40, 1)


def test_colour_is_seen_in_the_code_stream():
    colour = np.zeros((16, 8, 3), dtype=np.uint8)
    assert declared_size(imagecodecs.jpeg8_encode(colour)) == Size(16, 8, 3)
    assert declared_size(imagecodecs.jpeg2k_encode(colour, codecformat="j2k")) == Size(16, 8, 3)


def test_a_forged_size_is_read_as_the_decoder_would():
    stream = bytearray(STREAMS["JPEG 2000"])
    stream[8:16] = stream[24:32] = struct.pack(">II", 65535, 65535)  # image and tile
    assert declared_size(bytes(stream)) == Size(65535, 65535, 1)
    jpeg = bytearray(STREAMS["JPEG-LS"])
    at = jpeg.index(b"\xff\xf7")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 65535, 65535)
    assert declared_size(bytes(jpeg)) == Size(65535, 65535, 1)


def test_a_second_frame_header_hides_nothing():
    jpeg = STREAMS["JPEG baseline"]
    at = jpeg.index(b"\xff\xc0")
    length = 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    forged = bytearray(jpeg[at : at + length])
    forged[5:9] = struct.pack(">HH", 65535, 65535)
    assert declared_size(jpeg[:at] + jpeg[at : at + length] + bytes(forged) + jpeg[at + length :]) is None


def test_tiles_without_number_are_refused():
    stream = bytearray(STREAMS["JPEG 2000"])
    stream[8:16] = struct.pack(">II", 2**31, 2**31)
    stream[24:32] = struct.pack(">II", 1, 1)
    assert declared_size(bytes(stream)) is None


@settings(deadline=None, max_examples=300)
@given(
    start=st.sampled_from(
        [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xffO\xffQ", bytes.fromhex("0000000c6a5020200d0a870a")]
    ),
    rest=st.binary(max_size=200),
)
def test_any_bytes_give_a_size_or_none(start, rest):
    found = declared_size(start + rest)
    assert found is None or min(found) >= 0
    assert rle_size(start + rest, 100) in (None, *range(1, 16))


@settings(deadline=None, max_examples=200)
@given(
    stream=st.sampled_from(sorted(STREAMS)), at=st.integers(0, 400), value=st.integers(0, 255), end=st.integers(0, 600)
)
def test_damaged_streams_never_raise(stream, at, value, end):
    damaged = bytearray(STREAMS[stream])
    damaged[min(at, len(damaged) - 1)] = value
    declared_size(bytes(damaged))
    declared_size(bytes(damaged[:end]))


def rle(*segments: bytes) -> bytes:
    starts = np.cumsum([64, *(len(s) for s in segments)])[:-1]
    return struct.pack("<16L", len(segments), *starts, *[0] * (15 - len(segments))) + b"".join(segments)


def test_run_lengths_are_added_up_without_expanding_them():
    assert rle_size(rle(b"\x9d\x00", b"\x9d\x01"), 100) == 2  # 257 - 0x9d = 100
    assert rle_size(rle(b"\x01ab\x9f\x00", b"\x01cd\x9f\x01"), 100) == 2
    assert rle_size(rle(b"\x80\x9d\x00\x00"), 100) == 1  # nothing, the run, a byte of padding
    bomb = b"\x81\x00" * 100_000
    assert rle_size(rle(bomb, bomb), 100) is None
    assert rle_size(rle(b"\x9d\x00"), 101) is None
    assert rle_size(rle(b"\x9d"), 100) is None
    assert rle_size(rle(b"\x63" + b"x" * 99), 100) is None  # a literal run that is cut short
    assert rle_size(struct.pack("<16L", 2, 64, 10**6, *[0] * 13) + b"\x9d\x00", 100) is None
