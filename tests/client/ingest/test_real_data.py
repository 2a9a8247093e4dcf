"""The whole pipeline on CT from real scanners, and on files that scanners should not write."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from client.ingest import ingest, open_cohort
from client.ingest.geometry import build_series
from client.ingest.headers import read_sources
from client.ingest.records import Header
from client.site import DataSettings, Site, SiteConfig
from common.errors import DataError


def site_of(tmp_path, dicom, labels) -> Site:
    (tmp_path / "site").mkdir(exist_ok=True)
    settings = DataSettings(dicom=str(dicom), labels=str(labels))
    return Site(tmp_path / "site", SiteConfig(name="real", data=settings))


def test_eight_patients_with_slice_labels(real_data, tmp_path, make_study):
    site = site_of(tmp_path, real_data / "sts_ct", real_data / "sts_ct" / "labels.csv")
    study = make_study(label_column="tumour", label_level="slice", label_values=["0", "1"], spacing_mm=4.0, size=64)
    report = ingest(site, study)
    assert (report.patients, report.series, report.examples) == (8, 8, 401)
    assert {name: count.examples for name, count in report.classes.items()} == {"no": 255, "yes": 146}
    assert report.files.refused == {"not-ct": 8, "not-dicom": 3}
    assert (report.labels["rows_without_data"]["count"], report.labels["data_without_row"]) == (0, 0)
    cohort = open_cohort(site, study)
    assert (cohort.patients["label"] == -1).all()
    assert cohort.planes.std(axis=(1, 2, 3)).min() > 0


def test_a_body_scan_stands_upright_with_the_liver_on_the_left(real_data, tmp_path, make_study):
    """The table is behind the patient, and the liver (about 60 HU, without gas) is on the image's left."""
    folder = tmp_path / "dicom"
    shutil.copytree(real_data / "series" / "siemens_mct_j2k_20", folder)
    for path in list(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "body"
        dataset.save_as(path)
    (tmp_path / "labels.csv").write_text("patient_id,label\nbody,yes\n")
    study = make_study(spacing_mm=2.0, size=224, planes=1, windows=[{"low": -1000, "high": 1000}])
    site = site_of(tmp_path, folder, tmp_path / "labels.csv")
    assert ingest(site, study).files.accepted == 20
    cohort = open_cohort(site, study)
    plane = cohort.pixels(np.array([0]))[0, 1] / 255 * 2000 - 1000
    body = np.argwhere(plane > -200)
    assert body[:, 0].mean() > (plane.shape[0] - 1) / 2  # body and table lie in the lower half
    liver = (plane > 30) & (plane < 130)
    middle = plane.shape[1] // 2
    assert liver[40:120, :middle].sum() > 1.3 * liver[40:120, middle:].sum()


@pytest.mark.parametrize(
    ("part", "refused"),
    [
        ("odd/wrong_modality", {"not-ct": 83}),
        ("odd/dicom2nifti_failing/notavolume", {"duplicate-position": 4}),
        ("odd/pydicom", {"screen-save": 8, "dicomdir": 1, "too-few-slices": 3}),
        ("series/siemens_mct_j2k_20", {"no-patient-id": 20}),
    ],
)
def test_what_is_no_ct_volume_is_refused_with_its_reason(real_data, tmp_path, make_study, part, refused):
    (tmp_path / "labels.csv").write_text("patient_id,label\nanybody,yes\n")
    with pytest.raises(DataError, match="holds no CT series that can be used") as caught:
        ingest(site_of(tmp_path, real_data / part, tmp_path / "labels.csv"), make_study())
    for reason, count in refused.items():
        assert f"{count} {reason}" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "notes", "refused"),
    [
        ("gantrytilting", ["gantry tilt 14.0 degrees"], {"implausible-hu": 4}),
        ("sliceincrement", ["uneven spacing 0.7-1.5 mm interpolated"], {"implausible-hu": 4, "uneven-spacing": 4}),
    ],
)
def test_odd_geometry_is_corrected_but_a_grey_wedge_is_no_ct(real_data, tmp_path, make_study, part, notes, refused):
    """The pixels of these files were replaced by a ramp from 0 to 254; their geometry is as the scanner wrote it."""
    folder = real_data / "odd" / "dicom2nifti_failing" / part
    sources = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    headers = [one for found in read_sources(folder, sources) for one in found if isinstance(one, Header)]
    assert [note for one in build_series(headers)[0] for note in one.notes] == notes
    ids = {header.patient_id for header in headers}
    (tmp_path / "labels.csv").write_text("\n".join(["patient_id,label", *(f"{one},yes" for one in ids)]))
    with pytest.raises(DataError) as caught:
        ingest(site_of(tmp_path, folder, tmp_path / "labels.csv"), make_study())
    for reason, count in refused.items():
        assert f"{count} {reason}" in str(caught.value)


def test_every_file_of_all_the_data_is_in_one_row(real_data, tmp_path, make_study):
    (tmp_path / "labels.csv").write_text("patient_id,label\nLIDC-IDRI-0314,yes\n")
    report = ingest(site_of(tmp_path, real_data, tmp_path / "labels.csv"), make_study())
    assert report.files.total == sum(path.is_file() for path in real_data.rglob("*"))
    assert report.files.total == report.files.accepted + sum(report.files.refused.values())
    assert report.files.accepted == 20
