"""What is written is CT Image Storage that standard tools accept and that reads back as it was."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from simulations.phantom.dicom import derive_uid, write_series
from simulations.phantom.grid import Grid
from simulations.phantom.patient import Patient, Scan, examine
from simulations.phantom.scanner import SCANNERS, Scanner, stored_values

SLICES = 4


def small(scanner: Scanner, site: int) -> tuple[Patient, Scan]:
    """A patient with few, small, but not trivial slices."""
    scanner = replace(scanner, slices=SLICES, columns=64, field_of_view=96.0)
    grid = Grid((-47.25, -40.0, -3.0), scanner.pixel, scanner.step, 64, SLICES)
    units = np.random.default_rng(site).normal(40, 400, size=(SLICES, 64, 64)).astype(np.float32)
    return Patient(5, site + 1, site, "burst", scanner), Scan(stored_values(units, scanner), grid)


@pytest.fixture(scope="module", params=range(len(SCANNERS)), ids=[s.model for s in SCANNERS])
def series(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Patient, Scan]:
    folder = tmp_path_factory.mktemp("series") / "series"
    patient, scan = small(SCANNERS[request.param], request.param)
    write_series(folder, patient, examine(patient)[0], scan)
    return folder, patient, scan


def read(folder: Path) -> list:
    return sorted((dcmread(path) for path in folder.iterdir()), key=lambda ds: float(ds.ImagePositionPatient[2]))


def test_pixels_read_back_through_another_decoder_exactly_as_scanned(series: tuple[Path, Patient, Scan]) -> None:
    folder, patient, scan = series
    for index, ds in enumerate(read(folder)):
        assert ds.file_meta.TransferSyntaxUID == patient.scanner.transfer_syntax
        assert np.array_equal(ds.pixel_array, scan.pixels[index])
        assert ds.RescaleSlope == 1
        assert ds.RescaleIntercept == patient.scanner.intercept


def test_positions_are_even_and_instances_follow_the_hospital_s_order(series: tuple[Path, Patient, Scan]) -> None:
    folder, patient, _ = series
    slices = read(folder)
    heights = [float(ds.ImagePositionPatient[2]) for ds in slices]
    assert np.allclose(np.diff(heights), patient.scanner.step, atol=1e-3)
    assert [float(ds.SliceLocation) for ds in slices] == heights
    expected = list(range(1, SLICES + 1))
    assert [ds.InstanceNumber for ds in slices] == (expected[::-1] if patient.scanner.head_first_order else expected)


def test_headers_agree_within_the_series_and_uids_are_unique(series: tuple[Path, Patient, Scan]) -> None:
    folder, patient, _ = series
    slices = read(folder)
    for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "StudyDate"):
        assert len({str(getattr(ds, name)) for ds in slices}) == 1
    assert len({ds.SOPInstanceUID for ds in slices}) == SLICES
    for ds in slices:
        assert ds.SOPClassUID == CTImageStorage
        assert ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID
        assert ds.SOPInstanceUID.is_valid
        assert ds.PatientName == f"PHANTOM^{patient.number:04d}"
        assert ds.PatientID == f"PH-{patient.number:04d}"


def test_no_header_tells_the_class(series: tuple[Path, Patient, Scan]) -> None:
    folder, patient, _ = series
    assert patient.label == "burst"
    for ds in read(folder):
        assert "burst" not in str(ds).lower()


def test_dciodvfy_finds_no_error(series: tuple[Path, Patient, Scan]) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    for path in series[0].iterdir():
        done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, timeout=60)
        report = done.stdout + done.stderr
        assert "CTImage" in report
        assert "Error" not in report, report


def test_dciodvfy_would_find_a_missing_attribute(series: tuple[Path, Patient, Scan], tmp_path: Path) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian package dicom3tools) is not installed")
    ds = read(series[0])[0]
    del ds.RescaleIntercept
    ds.save_as(tmp_path / "broken.dcm")
    done = subprocess.run([program, "-new", str(tmp_path / "broken.dcm")], capture_output=True, text=True, timeout=60)
    assert "Error" in done.stdout + done.stderr


def test_writing_the_same_patient_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    patient, scan = small(SCANNERS[3], 3)
    for name in ("one", "two"):
        write_series(tmp_path / name, patient, examine(patient)[0], scan)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_a_uid_depends_on_all_its_parts() -> None:
    uids = {derive_uid(*parts) for parts in ((1, 2, "study"), (1, 2, "series"), (1, 3, "study"), (2, 2, "study"))}
    assert len(uids) == 4
    assert derive_uid(1, 2, "study") in uids
    assert max(map(len, uids)) <= 64
