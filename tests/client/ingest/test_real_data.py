"""The whole pipeline on CT from real scanners, and on files that scanners should not write."""

from __future__ import annotations

import shutil

import numpy as np
import pydicom
import pytest

from client.ingest import ingest, open_cohort
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
    assert report.class_counts == {"no": 255, "yes": 146}
    assert report.skipped == {"not-ct": 8, "not-dicom": 3}
    assert report.rows_without_data == 0
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
    assert ingest(site, study).files_accepted == 20
    cohort = open_cohort(site, study)
    plane = cohort.pixels(np.array([0]))[0, 1] / 255 * 2000 - 1000
    body = np.argwhere(plane > -200)
    assert body[:, 0].mean() > (plane.shape[0] - 1) / 2  # body and table lie in the lower half
    liver = (plane > 30) & (plane < 130)
    middle = plane.shape[1] // 2
    assert liver[40:120, :middle].sum() > 1.3 * liver[40:120, middle:].sum()


@pytest.mark.parametrize(
    ("part", "skips"),
    [
        ("odd/wrong_modality", {"not-ct": 83}),
        ("odd/dicom2nifti_failing/gantrytilting", {"gantry-tilt": 4}),
        ("odd/dicom2nifti_failing/sliceincrement", {"uneven-spacing": 8}),
        ("odd/dicom2nifti_failing/notavolume", {"duplicate-position": 4}),
        ("odd/pydicom", {}),
        ("series/siemens_mct_j2k_20", {"no-patient-id": 20}),
    ],
)
def test_what_is_no_ct_volume_is_refused_with_its_reason(real_data, tmp_path, make_study, part, skips):
    (tmp_path / "labels.csv").write_text("patient_id,label\nanybody,yes\n")
    with pytest.raises(DataError, match="holds no CT series that can be used") as caught:
        ingest(site_of(tmp_path, real_data / part, tmp_path / "labels.csv"), make_study())
    for reason, count in skips.items():
        assert f"{count} {reason}" in str(caught.value)
