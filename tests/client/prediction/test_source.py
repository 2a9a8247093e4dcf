from __future__ import annotations

import shutil
import zipfile

import numpy as np
import pytest

from client.ingest import ingest, open_cohort
from client.prediction.source import read_new_study
from common.errors import DataError


def read(case, source=None):
    return read_new_study(source or case.folder, case.study, lambda _done, _total: None)


def test_the_network_sees_what_ingest_would_have_stored(case, site):
    shutil.copytree(case.folder, site.dicom_dir)
    site.labels_file.write_text("patient_id,label\nP1,yes\n")
    ingest(site, case.study)
    cohort = open_cohort(site, case.study)
    assert np.array_equal(read(case).pixels, cohort.pixels(np.arange(len(cohort.labels))))


def test_a_zip_file_is_read_like_its_folder(case):
    archive = case.root / "export.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in case.folder.rglob("*"):
            file.write(path, path.relative_to(case.folder))
    found = read(case, archive)
    assert np.array_equal(found.pixels, read(case).pixels)
    assert found.files.refused == {"archive": 1}


def test_files_that_are_no_ct_are_left_out_with_their_reason(case, write_series):
    (case.folder / "README").write_text("an export")
    found = read(case)
    assert (found.files.accepted, found.files.refused) == (12, {"not-dicom": 1})
    assert found.centres.shape == (3, 32, 32)


@pytest.mark.parametrize("patient", ["P1", "P2"])
def test_ct_of_two_studies_is_refused(case, write_series, patient):
    write_series(case.folder / "other", np.full((5, 40, 40), 40.0), patient_id=patient)
    with pytest.raises(DataError, match=rf"2 CT studies of {1 if patient == 'P1' else 2} patients; expected one study"):
        read(case)


def test_without_usable_ct_the_reasons_are_named(case, write_series):
    shutil.rmtree(case.folder)
    write_series(case.folder / "mr", np.full((5, 40, 40), 40.0), SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    with pytest.raises(
        DataError, match=r"no CT series that the study can use: 5 x another kind of object .* \[not-ct\]"
    ):
        read(case)


def test_values_that_are_no_hounsfield_units_are_refused(case, write_series):
    shutil.rmtree(case.folder)
    write_series(case.folder / "odd", np.full((6, 40, 40), 9000.0))
    with pytest.raises(DataError, match="implausible-hu"):
        read(case)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_missing_or_empty_is_named(case, there):
    empty = case.root / "nothing"
    if there:
        empty.mkdir()
    with pytest.raises(DataError, match="nothing"):
        read(case, empty)


def test_nothing_of_the_scan_stays_behind(case, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    read(case)
    assert list(temporary.iterdir()) == []
