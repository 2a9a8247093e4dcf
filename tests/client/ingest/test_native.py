from __future__ import annotations

import dataclasses
import os
import zipfile

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from client.ingest.headers import read_source
from client.ingest.plausibility import count_hu
from client.ingest.records import Header
from client.ingest.volume import AIR_HU, PixelsUnreadable, Slice, read_volume

RAMP = np.linspace(-900, 900, 8 * 10).round().reshape(1, 8, 10)


def header_of(folder, name="") -> Header:
    (header,) = read_source(folder, name or next(folder.iterdir()).name)
    assert isinstance(header, Header)
    return header


def read(folder, header, *, pixels=True):
    """The slice as ingest reads it; without ``pixels`` as it reads what it has to parse again."""
    one = Slice(header.path, header.frame, header.pixels if pixels else None)
    return read_volume(folder, [one], header.rows, header.columns)


def written(folder, syntax, values, **tags):
    """One file of ``folder`` in ``syntax``; ``values`` are stored as they are, big endian ones turned."""

    def put(_, dataset):
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        dataset.PixelData = values.astype(values.dtype.newbyteorder(order)).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.file_meta.TransferSyntaxUID = syntax

    return put


@settings(max_examples=60)
@given(
    syntax=st.sampled_from([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]),
    sign=st.booleans(),
    scale=st.sampled_from([(1, -1024), (1, 0), (0.5, -1000.5), (-1, 30000), (2, 1)]),
    bits=st.sampled_from([(16, 15), (12, 11), (12, 15), (10, 12)]),
    padding=st.sampled_from([{}, {"PixelPaddingValue": 1}, {"PixelPaddingValue": 5, "PixelPaddingRangeLimit": 900}]),
    stored=st.lists(st.integers(0, 65535), min_size=6, max_size=6),
)
def test_pixels_read_from_their_place_are_those_that_are_parsed(
    tmp_path_factory, write_series, syntax, sign, scale, bits, padding, stored
):
    values = np.array(stored, "u2").view("i2" if sign else "u2").reshape(2, 3)
    tags = {"RescaleSlope": scale[0], "RescaleIntercept": scale[1], "BitsStored": bits[0], "HighBit": bits[1]}
    folder = tmp_path_factory.mktemp("native")
    write_series(folder, np.zeros((1, 2, 3)), each=written(folder, syntax, values, **tags | padding))
    header = header_of(folder)
    assert header.pixels is not None
    fast, parsed = read(folder, header), read(folder, header, pixels=False)
    np.testing.assert_array_equal(fast.hounsfield, parsed.hounsfield)
    np.testing.assert_array_equal(fast.histogram, parsed.histogram)


@pytest.mark.parametrize("pixels", [True, False])
@pytest.mark.parametrize(
    ("high", "stored", "expected"),
    [
        (11, np.array([[0xF064, 0x0064, 0x1FFF]], "u2"), [100, 100, 4095]),
        (15, np.array([[0x064F, 0x0640, 0xFFF1]], "u2"), [100, 100, 4095]),
        (11, np.array([[0x1064, 0x7FFF, 0x0FFE]], "i2"), [100, -1, -2]),
    ],
)
def test_bits_that_are_not_stored_are_no_part_of_a_value(tmp_path, write_series, high, stored, expected, pixels):
    """PS3.5 8.1.1: they may hold an overlay, or anything."""
    tags = {"RescaleIntercept": 0, "BitsStored": 12, "HighBit": high}
    write_series(tmp_path, np.zeros((1, 1, 3)), each=written(tmp_path, ExplicitVRLittleEndian, stored, **tags))
    assert read(tmp_path, header_of(tmp_path), pixels=pixels).hounsfield.ravel().tolist() == expected


@pytest.mark.parametrize("pixels", [True, False])
def test_padding_written_over_all_bits_is_still_padding(tmp_path, write_series, pixels):
    stored = np.array([[63536, 1024, 1064]], "u2")
    tags = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 63536}
    write_series(tmp_path, np.zeros((1, 1, 3)), each=written(tmp_path, ExplicitVRLittleEndian, stored, **tags))
    volume = read(tmp_path, header_of(tmp_path), pixels=pixels)
    assert volume.hounsfield.ravel().tolist() == [AIR_HU, 0, 40]
    np.testing.assert_array_equal(volume.histogram, count_hu(np.array([0, 40])))


def test_what_clips_to_the_value_of_padding_is_no_padding(tmp_path, write_series):
    stored = np.array([[2, 5, 1024]], "u2")
    tags = {"RescaleIntercept": -1029, "PixelPaddingValue": 5}
    write_series(tmp_path, np.zeros((1, 1, 3)), each=written(tmp_path, ExplicitVRLittleEndian, stored, **tags))
    assert read(tmp_path, header_of(tmp_path)).histogram.sum() == 2


@pytest.mark.parametrize("change", ["content", "longer", "shorter", "gone", "another file in its place"])
def test_a_file_that_was_changed_since_its_header_was_read_is_refused(tmp_path, write_series, change):
    write_series(tmp_path, RAMP)
    header = header_of(tmp_path)
    path = tmp_path / header.path
    content = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "another file in its place":
        path.unlink()
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to("elsewhere")
    else:
        path.write_bytes({"content": content, "longer": content + b"\0\0", "shorter": content[:-2]}[change])
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, header.pixels.mtime_ns + (change == "content")))
    with pytest.raises(PixelsUnreadable):
        read(tmp_path, header)


def test_a_place_beyond_the_end_of_the_file_is_refused(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    header = header_of(tmp_path)
    beyond = dataclasses.replace(header.pixels, offset=header.pixels.size - 8)
    with pytest.raises(PixelsUnreadable):
        read(tmp_path, dataclasses.replace(header, pixels=beyond))


def longer(dataset):
    dataset.PixelData += b"\0\0"


def as_bytes(dataset):
    dataset["PixelData"].VR = "OB"


def table(dataset):
    item = Dataset()
    item.LUTDescriptor, item.LUTData, item.ModalityLUTType = [4, 10, 16], [0, 40, 60, 1000], "HU"
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS", "US"
    dataset.ModalityLUTSequence = [item]


def overlay(dataset):
    dataset.add_new(0x60003000, "OW", bytes(80))


def deflated(dataset):
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def compressed(dataset):
    dataset.compress(RLELossless)


@pytest.mark.parametrize("make", [longer, as_bytes, table, overlay, deflated, compressed])
def test_what_needs_a_second_look_has_no_place(tmp_path, write_series, make):
    write_series(tmp_path, RAMP, each=lambda _, dataset: make(dataset))
    header = header_of(tmp_path)
    assert header.pixels is None
    assert read(tmp_path, header).hounsfield.shape == (1, 8, 10)


def test_a_member_of_an_archive_has_no_place(tmp_path, write_series):
    write_series(tmp_path / "dicom", RAMP)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.write(next((tmp_path / "dicom").iterdir()), "x")
    header = header_of(tmp_path, "export.zip!/x")
    assert header.pixels is None
    np.testing.assert_array_equal(read(tmp_path, header).hounsfield, RAMP)


def test_the_place_is_that_of_the_pixels(tmp_path, write_series):
    write_series(tmp_path, RAMP)
    header = header_of(tmp_path)
    content = (tmp_path / header.path).read_bytes()
    stored = pydicom.dcmread(tmp_path / header.path).PixelData
    assert content[header.pixels.offset :] == stored
