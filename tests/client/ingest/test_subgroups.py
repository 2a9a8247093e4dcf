"""Bands of patients: what is made of a header's value, and that nothing is kept which the site did not permit."""

import dataclasses

import numpy as np
import pytest

from client.ingest.build import ingest
from client.ingest.cohort import cohort_folder, open_cohort
from client.ingest.subgroups import age_band, make_table, thickness_band, vendor_band
from common.errors import DataError

ALL = ("vendor", "thickness", "age", "sex")


@pytest.mark.parametrize(
    ("age", "birth", "study", "band"),
    [
        ("039Y", "", "", "under 40"),
        ("040Y", "", "", "40 to 59"),
        ("018M", "", "", "under 40"),
        ("080Y", "19900101", "20200101", "80 and over"),
        ("", "19600302", "20200301", "40 to 59"),  # the day before the 60th birthday
        ("", "19600301", "20200301", "60 to 79"),
        ("", "19600301", "", "not stated"),
        ("", "20210101", "20200301", "not stated"),
        ("", "18500101", "20200301", "not stated"),
        ("old", "196003", "x", "not stated"),
        ("", "", "", "not stated"),
    ],
)
def test_an_age_becomes_its_band(age, birth, study, band):
    assert age_band(age, birth, study) == band


@pytest.mark.parametrize(
    ("thickness", "band"),
    [(0.0, "not stated"), (0.6, "up to 1.5 mm"), (1.5, "up to 1.5 mm"), (3.0, "over 1.5 to 3 mm"), (5.0, "over 3 mm")],
)
def test_a_thickness_becomes_its_band(thickness, band):
    assert thickness_band(thickness) == band


@pytest.mark.parametrize(
    ("manufacturer", "band"),
    [
        ("SIEMENS", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("UIH", "other"),
        ("Plantworks", "other"),
        (" ", "not stated"),
    ],
)
def test_a_manufacturer_becomes_a_vendor_of_the_list(manufacturer, band):
    assert vendor_band(manufacturer) == band


def test_bands_that_differ_between_a_patients_series_are_not_stated(make_series, tmp_path):
    series = [
        make_series(thickness=1.0),
        make_series(thickness=1.0),
        make_series(thickness=1.0),
        make_series(thickness=5.0),
    ]
    table = make_table(tmp_path, series, [0, 0, 1, 1], ("thickness", "vendor"))
    assert table["thickness"].tolist() == [1, 0]
    assert table["vendor"].tolist() == [1, 1]


@pytest.fixture
def hospital(site, tmp_path, write_series):
    """A site of three patients, with the policy that it is given."""
    for index, tags in enumerate(
        ({"PatientAge": "071Y", "PatientSex": "F"}, {"PatientBirthDate": "19850101", "StudyDate": "20200101"}, {})
    ):
        voxels = np.random.default_rng(index).normal(40, 30, (6, 40, 40)).round()
        voxels[:, :10] = -1000
        write_series(tmp_path / "dicom" / str(index), voxels, patient_id=f"P{index}", seed=index, **tags)
    (tmp_path / "labels.csv").write_text("patient_id,label\nP0,no\nP1,yes\nP2,no\n")

    def permit(*names):
        policy = site.config.policy.model_copy(update={"subgroups": names})
        return dataclasses.replace(site, config=site.config.model_copy(update={"policy": policy}))

    return permit


def test_by_default_no_band_is_kept_and_age_and_sex_are_not_read(hospital, make_study, monkeypatch):
    monkeypatch.setattr("client.ingest.subgroups.pydicom.dcmread", None)
    for permitted in ((), ("vendor", "thickness")):
        site = hospital(*permitted)
        ingest(site, make_study())
        cohort = open_cohort(site, make_study())
        assert (cohort.subgroups is None) is not bool(permitted)
        assert (cohort_folder(site, make_study()) / "subgroups.npy").exists() is bool(permitted)


def test_what_is_permitted_is_kept_as_bands_and_removed_when_it_no_longer_is(hospital, make_study):
    ingest(hospital(*ALL), make_study())
    kept = open_cohort(hospital(*ALL), make_study()).subgroups
    assert kept.dtype.names == ALL
    assert sorted(zip(kept["age"].tolist(), kept["sex"].tolist(), strict=True)) == [(0, 0), (1, 0), (3, 1)]
    assert ingest(hospital(*ALL), make_study()).reused
    assert not ingest(hospital("sex"), make_study()).reused
    assert open_cohort(hospital("sex"), make_study()).subgroups.dtype.names == ("sex",)
    ingest(hospital(), make_study())
    assert not (cohort_folder(hospital(), make_study()) / "subgroups.npy").exists()


def test_bands_that_were_altered_are_damage(hospital, make_study):
    ingest(hospital("sex"), make_study())
    path = cohort_folder(hospital("sex"), make_study()) / "subgroups.npy"
    table = np.load(path)
    table["sex"] = 3
    np.save(path, table)
    with pytest.raises(DataError, match=r"subgroups\.npy"):
        open_cohort(hospital("sex"), make_study())
