from __future__ import annotations

import io
import shutil
import subprocess
import warnings

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image

from client.prediction.dicom import SCHEME, make_objects
from client.prediction.predict import answer
from client.prediction.source import read_new_study
from common.errors import DataError


def asked(case):
    new = read_new_study(case.folder, case.study, lambda _done, _total: None)
    found = answer(case.saved, case.study, new)
    return new, found, make_objects(new, case.study, case.saved, found)


def reread(dataset) -> pydicom.FileDataset:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return pydicom.dcmread(io.BytesIO(stream.getvalue()))


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy of dicom3tools is not installed")
@pytest.mark.parametrize("body_part", [None, "SPINE", "KNEE"])
def test_a_validator_finds_no_error_in_any_of_them(case, tmp_path, body_part):
    """Not even where an anonymiser wrote a StudyID longer than the standard allows."""
    for path in (case.folder / "deep" / "series").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.BodyPartExamined
        if body_part is not None:
            dataset.BodyPartExamined = body_part
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset.StudyID = "LONGER_THAN_SIXTEEN"
        dataset.save_as(path)
    _, _, made = asked(case)
    for number, dataset in enumerate((*made.pictures, made.map, made.report)):
        path = tmp_path / f"{number}.dcm"
        pydicom.dcmwrite(path, dataset, enforce_file_format=True)
        said = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False).stderr.splitlines()
        assert {"SCImage", "ParametricMap", "Comprehensive3DSR"} & set(said)  # it knew what it was looking at
        assert [line for line in said if line.startswith(("Error", "Abort"))] == []


def test_all_of_it_joins_the_study_of_the_ct_in_series_of_its_own(case):
    new, _, made = asked(case)
    source = new.chosen.series.headers[0]
    everything = [reread(one) for one in (*made.pictures, made.map, made.report)]
    assert {one.StudyInstanceUID for one in everything} == {source.study_uid}
    assert {one.PatientID for one in everything} == {"P1"}
    series = [one.SeriesInstanceUID for one in everything]
    assert len(set(series)) == 3
    assert source.series_uid not in series
    assert len({one.SOPInstanceUID for one in everything}) == len(everything)


def test_the_report_reads_back_with_values_class_and_the_ct_it_rests_on(case):
    _, found, made = asked(case)
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, made.report, enforce_file_format=True)
    report = highdicom.sr.srread(io.BytesIO(stream.getvalue()))
    (group,) = report.content.get_image_measurement_groups()
    values = {one.name.meaning: one.value for one in group.get_measurements()}
    assert values == {
        f"Probability: {name}": round(float(v), 4) for name, v in zip(found.classes, found.values, strict=True)
    }
    said = next(one for one in group.get_qualitative_evaluations() if one.name.scheme_designator == SCHEME)
    assert said.value.meaning == found.classes[found.said]
    assert said.value.scheme_designator == SCHEME
    assert {image.referenced_sop_instance_uid for image in group.source_images} == set(case.uids)
    assert case.saved.sha256 in report.to_json()


def test_the_maps_lie_in_space_where_the_planes_were_taken(case):
    new, found, made = asked(case)
    image = highdicom.Image.from_dataset(reread(made.map))
    plan = new.chosen.plan
    assert image.FrameOfReferenceUID == "1.2.840.1"
    frames = {tuple(np.round(f.PlanePositionSequence[0].ImagePositionPatient, 3)): n for n, f in enumerate(
        image.PerFrameFunctionalGroupsSequence
    )}  # fmt: skip
    shared = image.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    assert np.allclose(orientation, [0, 1, 0, 0, 0, -1])
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == [2.0, 2.0]
    stored = np.frombuffer(image.FloatPixelData, np.float32).reshape(found.maps.shape)
    for example, planes in enumerate(plan.examples):
        number = frames[tuple(np.round(plan.origins[planes[1]], 3))]
        assert np.array_equal(stored[number], found.maps[example])


def test_the_pictures_show_plane_and_map_the_right_way_round(case):
    new, _, made = asked(case)
    first = reread(made.pictures[0])
    assert list(first.PatientOrientation) == ["P", "F"]  # sagittal: to the back, and to the feet
    assert [float(v) for v in first.PixelSpacing] == [0.25, 0.25]
    assert "research only" in first.SeriesDescription
    grey = np.asarray(Image.fromarray(first.pixel_array).convert("L").resize((32, 32), Image.Resampling.BOX), float)
    assert np.corrcoef(grey[:28].ravel(), new.centres[0][:28].astype(float).ravel())[0, 1] > 0.5


def test_slices_are_reported_as_shares_and_each_has_a_picture(slice_case):
    new, found, made = asked(slice_case)
    assert len(made.pictures) == len(new.centres) == 12
    assert found.values.sum() == pytest.approx(1)
    assert np.array_equal(found.targets, found.examples.argmax(axis=1))
    assert "Share of slices" in str(made.report)


def test_ct_without_uids_is_refused_since_no_result_could_name_it(case):
    for path in (case.folder / "deep" / "series").iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.SeriesInstanceUID
        dataset.save_as(path)
    with pytest.raises(DataError, match="SeriesInstanceUID"):
        asked(case)


def test_a_ct_without_frame_of_reference_or_patient_module_still_gets_its_results(case):
    for path in (case.folder / "deep" / "series").iterdir():
        dataset = pydicom.dcmread(path)
        for name in ("FrameOfReferenceUID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"):
            delattr(dataset, name)
        dataset.save_as(path)
    _, _, made = asked(case)
    assert reread(made.report).PatientSex == ""
