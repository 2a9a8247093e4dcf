from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ImplicitVRLittleEndian

from client.ingest.records import EXPLANATIONS, Header, Reason, Skip
from client.ingest.scan import fingerprint, read_header, read_headers, walk

FLAT = np.zeros((1, 16, 12))


def read_only(folder: Path) -> Header | Skip:
    """The result of the one file in ``folder``."""
    entries, _ = walk(folder)
    (found,) = read_headers(folder, [entry.path for entry in entries])
    return found


def test_a_slice_is_read_whatever_its_name(tmp_path, write_series):
    (uid,) = write_series(
        tmp_path / "a" / "b", FLAT, patient_id=" P7 ", StudyInstanceUID="1.2", SeriesInstanceUID="1.3"
    )
    header = read_only(tmp_path)
    assert isinstance(header, Header)
    assert (header.patient_id, header.study_uid, header.series_uid, header.sop_uid) == ("P7", "1.2", "1.3", uid)
    assert (header.rows, header.columns, header.spacing, header.original) == (16, 12, (1.0, 1.0), True)
    assert header.orientation == (1, 0, 0, 0, 1, 0)


def test_a_data_set_without_preamble_and_meta_is_read(tmp_path, write_series):
    write_series(tmp_path, FLAT)
    (path,) = tmp_path.iterdir()
    dataset = pydicom.dcmread(path)
    del dataset.file_meta
    with path.open("wb") as file:
        pydicom.filewriter.write_dataset(pydicom.filebase.DicomFileLike(file), _as(dataset, ImplicitVRLittleEndian))
    assert path.read_bytes()[:2] == b"\x08\x00"
    assert isinstance(read_only(tmp_path), Header)


def _as(dataset, syntax):
    dataset.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    return dataset


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, "not-ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"}, "not-ct"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 2}, "multi-frame"),
        ({"SamplesPerPixel": 3}, "multi-frame"),
        ({"ImagePositionPatient": None}, "no-geometry"),
        ({"ImageOrientationPatient": ""}, "no-geometry"),
        ({"PixelSpacing": None}, "no-geometry"),
        ({"Rows": None}, "no-geometry"),
        ({"RescaleSlope": None, "PixelData": bytes(400)}, "no-rescale"),
        ({"RescaleIntercept": "", "PixelData": bytes(400)}, "no-rescale"),
        ({"RescaleSlope": 0, "PixelData": bytes(400)}, "bad-header"),
        ({"PixelSpacing": [0, 1]}, "bad-header"),
        ({"PixelSpacing": [1e6, 1]}, "bad-header"),
        ({"ImagePositionPatient": [0, 0]}, "bad-header"),
        ({"ImagePositionPatient": [0, 0, 1e9]}, "bad-header"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "bad-header"),
        ({"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]}, "bad-header"),
        ({"Rows": 65535, "Columns": 65535}, "bad-header"),
        ({"Rows": 4000}, "pixels-unreadable"),
        ({"PatientID": ""}, "no-patient-id"),
        ({"PatientID": None}, "no-patient-id"),
    ],
)
def test_each_slice_that_cant_be_used_says_why(tmp_path, write_series, tags, reason):
    write_series(tmp_path, FLAT, **tags)
    found = read_only(tmp_path)
    assert isinstance(found, Skip)
    assert found.reason == reason


def test_a_sop_class_that_is_empty_is_taken_from_the_file_meta(tmp_path, write_series):
    write_series(tmp_path, FLAT, SOPClassUID="")
    assert isinstance(read_only(tmp_path), Header)


@pytest.mark.parametrize("content", [b"", b"patient_id,label\n", bytes(4096), b"\x08\x00", b"\x89PNG" + bytes(200)])
def test_what_is_not_dicom_is_left_out(tmp_path, content):
    (tmp_path / "file.dcm").write_bytes(content)
    assert read_only(tmp_path) == Skip("file.dcm", Reason.NOT_DICOM)


def test_a_dicm_prefix_over_rubbish_is_no_error(tmp_path):
    (tmp_path / "x").write_bytes(bytes(128) + b"DICM" + b"\xff" * 100)
    assert isinstance(read_only(tmp_path), Skip)


def test_link_loops_pipes_and_dead_links_do_not_hang_the_walk(tmp_path, write_series):
    write_series(tmp_path / "deep", FLAT)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "twin").symlink_to(tmp_path / "deep", target_is_directory=True)
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    entries, skips = walk(tmp_path)
    assert len(entries) == 1
    assert skips == [Skip("dead", Reason.NOT_A_FILE), Skip("pipe", Reason.NOT_A_FILE)]


def test_a_file_that_vanishes_is_unreadable(tmp_path):
    assert read_header(tmp_path, "gone") == Skip("gone", Reason.UNREADABLE)


def test_the_fingerprint_follows_every_change_of_the_tree(tmp_path):
    def now() -> str:
        return fingerprint(walk(tmp_path)[0], b"labels")

    (tmp_path / "a").write_bytes(b"1")
    seen = {now()}
    assert now() in seen
    (tmp_path / "b").write_bytes(b"1")
    seen.add(now())
    (tmp_path / "b").rename(tmp_path / "c")
    seen.add(now())
    (tmp_path / "c").write_bytes(b"12")
    seen.add(now())
    os.utime(tmp_path / "a", ns=(0, 1))
    seen.add(now())
    seen.add(fingerprint(walk(tmp_path)[0], b"other labels"))
    assert len(seen) == 6


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
    assert isinstance(read_only(folder), (Header, Skip))


def test_every_reason_is_explained():
    assert set(EXPLANATIONS) == set(Reason)
