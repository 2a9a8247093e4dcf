from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
)

from client.ingest import headers
from client.ingest.headers import read_source
from client.ingest.records import EXPLANATIONS, Annotation, Found, Header, Pixels, Reason, Skip

FLAT = np.zeros((1, 16, 12))
CT = "1.2.840.10008.5.1.4.1.1.2"


def read_only(folder: Path) -> Found:
    """The one result of the one file in ``folder``."""
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    (found,) = read_source(folder, str(path.relative_to(folder)))
    return found


def test_a_slice_is_read_whatever_its_name(tmp_path, write_series):
    (uid,) = write_series(
        tmp_path / "a" / "b",
        FLAT,
        patient_id=" P7 ",
        StudyInstanceUID="1.2",
        SeriesInstanceUID="1.3",
        FrameOfReferenceUID="1.4",
        SliceThickness="1.25",
        ConvolutionKernel=["Br40f", "3"],
        Manufacturer="SIEMENS",
        AcquisitionNumber="2",
    )
    header = read_only(tmp_path)
    assert isinstance(header, Header)
    assert (header.patient_id, header.study_uid, header.series_uid, header.sop_uid) == ("P7", "1.2", "1.3", uid)
    assert (header.rows, header.columns, header.spacing, header.frame) == (16, 12, (1.0, 1.0), 0)
    assert (header.original, header.primary, header.acquisition) == (True, True, "2\\ORIGINAL\\PRIMARY\\AXIAL")
    assert (header.frame_of_reference, header.thickness, header.kernel) == ("1.4", 1.25, "Br40f\\3")
    assert (header.vendor, header.syntax) == ("SIEMENS", ExplicitVRLittleEndian)
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.slice_id == uid
    assert all(type(value) in (str, float, int, bool, tuple, Pixels) for value in vars_of(header))


def vars_of(header):
    return [getattr(header, name) for name in header.__slots__]


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_data_set_without_preamble_and_meta_is_read(tmp_path, write_series, syntax):
    write_series(tmp_path, FLAT)
    (path,) = tmp_path.iterdir()
    dataset = pydicom.dcmread(path)
    before = read_only(tmp_path)
    bare(path, dataset, syntax)
    found = read_only(tmp_path)
    assert isinstance(found, Header)
    assert (found.sop_uid, found.position, found.rows) == (before.sop_uid, before.position, before.rows)


def bare(path, dataset, syntax):
    values = dataset.PixelData
    del dataset.file_meta, dataset.PixelData
    copy = pydicom.Dataset()
    for element in dataset:
        copy[element.tag] = element
    content = pydicom.filebase.DicomBytesIO()
    content.is_implicit_VR, content.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
    pydicom.filewriter.write_dataset(content, copy)
    order = "<" if syntax.is_little_endian else ">"
    head = struct.pack(f"{order}HH", 0x7FE0, 0x0010)
    head += (
        struct.pack("<L", len(values)) if syntax.is_implicit_VR else b"OW\0\0" + struct.pack(f"{order}L", len(values))
    )
    path.write_bytes(content.getvalue() + head + values)


@pytest.mark.parametrize(
    ("tags", "reason", "detail"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "not-ct", "MR Image Storage"),
        ({"SOPClassUID": "1.2.3.4.5"}, "not-ct", "not in the standard"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "screen-save", "Secondary Capture Image Storage"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, "screen-save", "CT Image Storage"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN_SAVE"]}, "screen-save", "CT Image Storage"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer", ""),
        ({"BurnedInAnnotation": "YES"}, "burned-in-text", ""),
        ({"SamplesPerPixel": 3}, "colour", ""),
        ({"NumberOfFrames": 2, "PixelData": bytes(800)}, "bad-header", None),
        ({"ImagePositionPatient": None}, "no-geometry", "ImagePositionPatient"),
        ({"ImageOrientationPatient": ""}, "no-geometry", "ImageOrientationPatient"),
        ({"PixelSpacing": None}, "no-geometry", "PixelSpacing"),
        ({"Rows": None}, "no-geometry", "Rows"),
        ({"Columns": 0}, "no-geometry", "Columns"),
        ({"RescaleSlope": None, "PixelData": bytes(400)}, "no-rescale", "RescaleSlope"),
        ({"RescaleIntercept": "", "PixelData": bytes(400)}, "no-rescale", "RescaleIntercept"),
        ({"RescaleSlope": 0, "PixelData": bytes(400)}, "bad-header", "RescaleSlope"),
        ({"PixelSpacing": [0, 1]}, "bad-header", "PixelSpacing"),
        ({"PixelSpacing": [1e6, 1]}, "bad-header", "PixelSpacing"),
        ({"ImagePositionPatient": [0, 0]}, "bad-header", "ImagePositionPatient"),
        ({"ImagePositionPatient": [0, 0, 1e9]}, "bad-header", "ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad-header", "ImageOrientationPatient"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "bad-header", "ImageOrientationPatient"),
        ({"BitsAllocated": 12}, "bad-header", "BitsAllocated"),
        ({"Rows": 65535, "Columns": 65535}, "too-large", "65535 x 65535 pixels"),
        ({"NumberOfFrames": 2**31 - 1}, "too-large", "2147483647 frames of 16 x 12 pixels"),
        ({"Rows": 4000}, "pixels-unreadable", "truncated"),
        ({"PatientID": ""}, "no-patient-id", ""),
        ({"PatientID": None}, "no-patient-id", ""),
    ],
)
def test_each_slice_that_cant_be_used_says_why(tmp_path, write_series, tags, reason, detail):
    write_series(tmp_path, FLAT, **tags)
    found = read_only(tmp_path)
    assert isinstance(found, Skip)
    assert found.reason == reason
    assert detail is None or found.detail == detail


@pytest.mark.parametrize(
    ("syntax", "detail"),
    [
        ("1.2.840.10008.1.2.4.102", "MPEG-4 AVC/H.264 High Profile / Level 4.1"),
        ("1.2.840.10008.1.2.4.94", "JPIP Referenced"),
        ("1.2.840.10008.1.2.4.110", "not in the standard"),
        ("1.2.3.4", "not in the standard"),
    ],
)
def test_an_unsupported_transfer_syntax_is_named_in_the_words_of_the_standard(tmp_path, write_series, syntax, detail):
    write_series(tmp_path, FLAT)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    place = content.index(b"\x02\x00\x10\x00UI")
    length = struct.unpack_from("<H", content, place + 6)[0]
    value = syntax.encode() + b"\0" * (len(syntax) % 2)
    path.write_bytes(content[: place + 6] + struct.pack("<H", len(value)) + value + content[place + 8 + length :])
    assert read_only(tmp_path) == Skip(path.name, Reason.UNSUPPORTED_SYNTAX, detail)


@pytest.mark.parametrize("number", ["50", "51", "57", "70", "80", "81", "90", "91", "201", "202", "203"])
def test_every_compression_that_ct_comes_in_has_a_decoder(number):
    assert headers.is_supported(f"1.2.840.10008.1.2.4.{number}")
    assert headers.is_supported("1.2.840.10008.1.2.5")


def test_structures_and_segmentations_are_sources_of_labels(tmp_path, write_series):
    for kind, uid in (("rtstruct", RTStructureSetStorage), ("seg", SegmentationStorage)):
        write_series(tmp_path / kind, FLAT, SOPClassUID=uid, ImagePositionPatient=None)
        found = read_only(tmp_path / kind)
        assert isinstance(found, Annotation)
        assert (found.patient_id, found.kind) == ("P1", kind)


def test_a_sop_class_that_is_empty_is_taken_from_the_file_meta(tmp_path, write_series):
    write_series(tmp_path, FLAT, SOPClassUID="")
    assert isinstance(read_only(tmp_path), Header)


def test_values_of_a_header_are_not_logged_or_warned_of(tmp_path, write_series, caplog, recwarn):
    write_series(tmp_path, FLAT)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[content.index(b"\x28\x00\x53\x10DS") + 8] = ord("#")
    path.write_bytes(content)
    assert read_only(tmp_path) == Skip(path.name, Reason.BAD_HEADER, "RescaleSlope")
    assert not caplog.records
    assert not recwarn.list
    assert not pydicom.config.logger.disabled


def test_a_modality_lut_stands_for_slope_and_intercept(tmp_path, write_series):
    table = pydicom.Dataset()
    table.LUTDescriptor = [2, 0, 16]
    table.ModalityLUTType = "HU"
    table.add_new("LUTData", "US", [0, 1])
    write_series(
        tmp_path, FLAT, ModalityLUTSequence=[table], RescaleSlope=None, RescaleIntercept=None, PixelData=bytes(400)
    )
    assert isinstance(read_only(tmp_path), Header)


@pytest.mark.parametrize("content", [b"", b"patient_id,label\n", bytes(4096), b"\x08\x00", b"\x89PNG" + bytes(200)])
def test_what_is_not_dicom_is_left_out(tmp_path, content):
    (tmp_path / "file.dcm").write_bytes(content)
    assert read_only(tmp_path) == Skip("file.dcm", Reason.NOT_DICOM)


def test_a_dicm_prefix_over_rubbish_is_no_error(tmp_path):
    (tmp_path / "x").write_bytes(bytes(128) + b"DICM" + b"\xff" * 100)
    assert isinstance(read_only(tmp_path), Skip)


def test_a_file_that_vanishes_is_unreadable(tmp_path):
    assert read_source(tmp_path, "gone") == [Skip("gone", Reason.UNREADABLE)]
    assert read_source(tmp_path, "gone.zip!/x") == [Skip("gone.zip!/x", Reason.UNREADABLE)]


def test_a_header_longer_than_the_first_block_is_read_whole(tmp_path, write_series):
    def lengthen(_index, dataset):
        dataset.private_block(0x0009, "VENDOR", create=True).add_new(1, "OB", bytes(300_000))

    write_series(tmp_path, FLAT, each=lengthen)
    assert isinstance(read_only(tmp_path), Header)


def test_a_header_without_end_is_refused(tmp_path, write_series, monkeypatch):
    monkeypatch.setattr(headers, "HEADER_BLOCKS", (1024, 4096))
    test_body = bytes(20_000)
    write_series(
        tmp_path, FLAT, each=lambda _, d: d.private_block(9, "VENDOR", create=True).add_new(1, "OB", test_body)
    )
    assert read_only(tmp_path).reason == Reason.TOO_LARGE


def test_a_header_of_empty_items_is_refused_before_they_take_memory(tmp_path, write_series, memory_peak):
    items = struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 3_000_000
    write_series(tmp_path, FLAT)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    place = content.index(b"\x08\x00\x05\x00") if b"\x08\x00\x05\x00" in content else content.index(b"\x08\x00\x08\x00")
    sequence = struct.pack("<HH2sHL", 0x0008, 0x0006, b"SQ", 0, 0xFFFFFFFF) + items
    path.write_bytes(content[:place] + sequence + content[place:])
    with memory_peak(150 * 2**20):
        assert read_only(tmp_path).reason == Reason.TOO_LARGE


def test_details_never_hold_text_of_the_file(tmp_path, write_series):
    planted = "1.2.99999.4711"
    for number, tags in enumerate(
        (
            {"SOPClassUID": planted},
            {"Manufacturer": planted, "Rows": 0},
            {"FrameOfReferenceUID": planted, "PixelSpacing": 0},
        )
    ):
        write_series(tmp_path / str(number), FLAT, **tags)
        assert planted not in read_only(tmp_path / str(number)).detail


@pytest.fixture(scope="module")
def one_file(tmp_path_factory, write_series):
    folder = tmp_path_factory.mktemp("one")
    write_series(folder, FLAT)
    return next(folder.iterdir())


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_a_header_or_a_skip_and_never_a_trace(one_file, tmp_path_factory, data):
    content = bytearray(one_file.read_bytes())
    for place in data.draw(st.lists(st.integers(132, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "x").write_bytes(content[:cut])
    check(read_only(folder))
    assert read_source(folder, "x") == read_by_pydicom(folder, "x")


def read_by_pydicom(folder: Path, name: str) -> list[Found]:
    """What is found when pydicom parses all of the header, nothing of it by the shorter way."""
    with mock.patch.object(headers, "_read_plain", return_value=None):
        return read_source(folder, name)


def check(found: Found) -> None:
    """A header that is believed is sound in every value that later steps calculate with."""
    assert isinstance(found, (Header, Skip, Annotation))
    if isinstance(found, Header):
        assert np.isfinite([*found.position, *found.orientation, *found.spacing, found.thickness]).all()
        assert 0 < found.rows <= 4096
        assert 0 < found.columns <= 4096
        assert found.patient_id


VRS = [
    b"AE",
    b"CS",
    b"DS",
    b"FD",
    b"IS",
    b"LO",
    b"OB",
    b"OW",
    b"PN",
    b"SQ",
    b"UI",
    b"UL",
    b"UN",
    b"US",
    b"UT",
    b"ZZ",
    b"\0\0",
]
ABSURD = [
    b"",
    b"\0",
    b" ",
    b"\\\\\\",
    b"1e999",
    b"-1e308\\nan\\inf",
    b"\xff" * 40,
    b"0\\0",
    b"9" * 5000,
    "é".encode(),
    b"1_0",
]


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_damaged_elements_are_a_header_or_a_skip_and_never_a_trace(one_file, tmp_path_factory, data):
    """Elements removed, emptied, retyped, with wrong lengths and absurd values, in three encodings."""
    elements = split(one_file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, len(elements) - 1))
        tag, vr, length, value = elements[number]
        damage = data.draw(st.sampled_from(["remove", "empty", "retype", "length", "value", "twice", "move"]))
        if damage == "remove":
            del elements[number]
        elif damage == "twice":
            elements.insert(data.draw(st.integers(0, len(elements))), elements[number])
        elif damage == "move":
            elements.insert(data.draw(st.integers(0, len(elements) - 1)), elements.pop(number))
        elif damage == "empty":
            elements[number] = (tag, vr, 0, b"")
        elif damage == "retype":
            elements[number] = (tag, data.draw(st.sampled_from(VRS)), length, value)
        elif damage == "length":
            elements[number] = (
                tag,
                vr,
                data.draw(st.sampled_from([0, 1, 7, 0xFFFF, 2**31, 0xFFFFFFFE, 0xFFFFFFFF])),
                value,
            )
        else:
            absurd = data.draw(st.one_of(st.sampled_from(ABSURD), st.binary(max_size=64)))
            elements[number] = (tag, vr, len(absurd), absurd)
        if not elements:
            break
    folder = tmp_path_factory.mktemp("damaged")
    (folder / "x").write_bytes(one_file.read_bytes()[:132] + join(elements))
    check(read_only(folder))


LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")


def split(content: bytes) -> list[tuple[bytes, bytes, int, bytes]]:
    """The elements of an explicit little endian file without sequences: tag, VR, length, value."""
    place, elements = 132, []
    while place < len(content):
        tag, vr = content[place : place + 4], content[place + 4 : place + 6]
        head = 12 if vr in LONG else 8
        length = struct.unpack_from("<L" if vr in LONG else "<H", content, place + (8 if vr in LONG else 6))[0]
        elements.append((tag, vr, length, content[place + head : place + head + length]))
        place += head + length
    return elements


def join(elements) -> bytes:
    parts = []
    for tag, vr, length, value in elements:
        form = b"\0\0" + struct.pack("<L", length) if vr in LONG else struct.pack("<H", min(length, 0xFFFF))
        parts += [tag, vr, form, value]
    return b"".join(parts)


def test_the_damage_starts_from_a_file_that_is_whole(one_file):
    content = one_file.read_bytes()
    assert content[:132] + join(split(content)) == content
    assert len(split(content)) > 20


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=300))
def test_random_bytes_in_every_container_are_a_skip(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("random")
    (folder / "bare").write_bytes(b"\x08\0\x05\0" + content)
    (folder / "part10").write_bytes(bytes(128) + b"DICM\x02\0\0\0UL\4\0" + content)
    (folder / "zip").write_bytes(b"PK\x03\x04" + content)
    for name in ("bare", "part10", "zip"):
        assert isinstance(read_source(folder, name)[0], Skip)
    with zipfile.ZipFile(folder / "whole.zip", "w") as archive:
        archive.writestr("x", content)
    assert isinstance(read_source(folder, "whole.zip!/x")[0], Skip)


def test_every_reason_is_explained():
    assert set(EXPLANATIONS) == set(Reason)


def test_what_pydicom_ships_as_awkward_is_read_or_refused_by_name(real_data):
    folder = real_data / "odd" / "pydicom"
    found = {path.name: read_source(folder, path.name)[0] for path in folder.iterdir()}
    assert found == {name: read_by_pydicom(folder, name)[0] for name in found}
    reasons = {name: one.reason for name, one in found.items() if isinstance(one, Skip)}
    assert isinstance(found["CT_small.dcm"], Header)
    assert isinstance(found["rtstruct.dcm"], Annotation)
    assert reasons["DICOMDIR"] == Reason.DICOMDIR
    assert reasons["waveform_ecg.dcm"] == reasons["MR_small_RLE.dcm"] == reasons["rtdose.dcm"] == Reason.NOT_CT
    assert reasons["SC_rgb_rle.dcm"] == Reason.SCREEN_SAVE
    assert reasons["README.txt"] == Reason.NOT_DICOM
    assert Reason.UNREADABLE not in reasons.values()
