from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from client.ingest import ingest, open_cohort
from common.errors import DataError

WINDOWS = [{"low": -1000, "high": 1000}, {"low": -100, "high": 100}]


@pytest.fixture
def opened(site, make_study, write_series, tmp_path):
    """A cohort of 12 patients with 4 slices each; the HU of a slice is 10 * patient + slice - 60."""
    rows = ["patient_id,label"]
    for number in range(12):
        voxels = np.zeros((4, 40, 40)) + 10 * number - 60 + np.arange(4)[:, None, None]
        write_series(tmp_path / "dicom", voxels, patient_id=f"P{number}")
        rows.append(f"P{number},{'yes' if number % 3 == 0 else 'no'}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    study = make_study(windows=WINDOWS, spacing_mm=1.0)
    ingest(site, study)
    return open_cohort(site, study), study


def test_every_example_belongs_to_one_patient_on_one_side_of_the_split(opened):
    cohort, _ = opened
    training, holdout = cohort.training_patients(), cohort.holdout_patients()
    assert len(training) + len(holdout) == len(cohort.patients) == 12
    assert training
    assert holdout
    assert sorted(np.concatenate(training + holdout)) == list(range(48))
    for group in training + holdout:
        assert len(set(cohort.examples["patient"][group])) == 1
        assert len(group) == 4
    assert (cohort.patients["label"] == 1).sum() == 4


def test_pixels_are_window_major_with_lower_centre_and_upper_plane(opened):
    cohort, _ = opened
    pixels = cohort.pixels(np.array([2, 0]))
    assert pixels.shape == (2, 6, 32, 32)
    for stack, example in zip(pixels, cohort.examples[[2, 0]], strict=True):
        expected = [cohort.planes[plane, window] for window in (0, 1) for plane in example["planes"]]
        np.testing.assert_array_equal(stack, expected)
    narrow = pixels[0, 3:, 16, 16].astype(int)
    assert narrow[0] < narrow[1] < narrow[2]  # HU rises by 1 with each slice


def test_pixels_and_labels_belong_together(opened):
    cohort, _ = opened
    values = cohort.pixels(np.arange(48))[:, 4, 16, 16].astype(float) / 255 * 200 - 100
    numbers = np.floor((values + 60.5) / 10)
    assert ((numbers % 3 == 0) == (cohort.labels == 1)).all()


def test_a_study_of_other_settings_cant_open_the_cohort(opened, site, make_study):
    cohort, study = opened
    with pytest.raises(DataError, match="has no cohort") as caught:
        open_cohort(site, make_study(windows=WINDOWS, spacing_mm=1.5))
    assert "fedct-site ingest" in caught.value.remedy
    other = make_study(windows=WINDOWS, spacing_mm=1.0, split_seed=1)
    shutil.copytree(cohort.folder, site.cohorts_dir / other.cohort_digest[:16])
    with pytest.raises(DataError, match="made for another"):
        open_cohort(site, other)
    training = study.training.model_copy(update={"local_steps": 9})
    assert open_cohort(site, study.model_copy(update={"training": training})).folder == cohort.folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def rewrite(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def other_shape(path):
    np.save(path, np.zeros((3, 2, 16, 16), np.uint8))


def fewer(path):
    np.save(path, np.load(path)[:10])


def other_format(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


def objects(path):
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("planes.npy", cut),
        ("planes.npy", other_shape),
        ("planes.npy", fewer),
        ("planes.npy", objects),
        ("planes.npy", lambda path: path.unlink()),
        ("planes.npy", lambda path: path.write_bytes(b"")),
        ("examples.npy", cut),
        ("examples.npy", rewrite),
        ("patients.npy", rewrite),
        ("patients.npy", lambda path: path.unlink()),
        ("manifest.json", cut),
        ("manifest.json", other_format),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", lambda path: path.write_text("{}")),
        ("manifest.json", lambda path: path.write_bytes(b"\xff")),
    ],
)
def test_a_damaged_cohort_is_refused_and_made_anew(opened, site, name, damage):
    cohort, study = opened
    before = np.array(cohort.planes)
    damage(cohort.folder / name)
    with pytest.raises(DataError, match="is damaged"):
        open_cohort(site, study)
    assert not ingest(site, study).reused
    np.testing.assert_array_equal(open_cohort(site, study).planes, before)


def test_a_cohort_is_immutable(opened):
    cohort, _ = opened
    with pytest.raises(dataclasses.FrozenInstanceError):
        cohort.folder = None
    with pytest.raises(ValueError, match="read-only"):
        cohort.planes[0] = 0
