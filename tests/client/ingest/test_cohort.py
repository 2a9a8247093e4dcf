from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest

from client.ingest import open_cohort
from client.ingest.cohort import open_folder, reusable_cohort
from client.keys import ENVIRONMENT, load_key
from common.errors import DataError, SiteError
from common.study import cohort_digest_of

WINDOWS = [{"low": -1000, "high": 1000}, {"low": -100, "high": 100}]


@pytest.fixture
def study(make_study):
    return make_study(windows=WINDOWS, spacing_mm=1.0)


@pytest.fixture(params=[False, True], ids=["in clear", "encrypted"])
def opened(request, site, study, write_cohort, encrypting):
    site = encrypting(site, request.param)
    write_cohort(site, study)
    cohort = open_cohort(site, study)
    assert cohort.encrypted == request.param
    return cohort


def test_every_example_belongs_to_one_patient_on_one_side_of_the_split(opened):
    training, holdout = opened.training_patients(), opened.holdout_patients()
    assert (len(training), len(holdout)) == (9, 3)
    assert sorted(np.concatenate(training + holdout)) == list(range(48))
    for group in training + holdout:
        assert len(set(opened.examples["patient"][group])) == 1
        assert len(group) == 4
    assert (opened.patients["label"] == 1).sum() == 4


def test_one_cohort_serves_all_folds_and_each_patient_is_held_out_once(site, study, write_cohort):
    written = write_cohort(site, study.of_fold(1, 4))
    tested = []
    for fold in range(1, 5):
        cohort = open_cohort(site, study.of_fold(fold, 4))
        assert cohort.folder == written
        training, held_out = cohort.training_patients(), cohort.holdout_patients()
        assert sorted(np.concatenate(training + held_out)) == list(range(48))
        tested += [int(cohort.examples["patient"][group[0]]) for group in held_out]
    assert sorted(tested) == list(range(12))
    with pytest.raises(DataError, match="has no cohort"):
        open_cohort(site, study.of_fold(1, 5))


def test_pixels_are_window_major_with_lower_centre_and_upper_plane(opened):
    pixels = opened.pixels(np.array([2, 0, 2]))
    assert pixels.shape == (3, 6, 32, 32)
    for stack, example in zip(pixels, opened.examples[[2, 0, 2]], strict=True):
        planes = opened.planes[example["planes"]]  # [3, windows, size, size]
        np.testing.assert_array_equal(stack, [planes[n, window] for window in (0, 1) for n in range(3)])
    assert (pixels[0, 1:3] == pixels[2, 1:3]).all()
    assert not (pixels[0, 0] == pixels[0, 1]).all()
    assert opened.pixels(np.empty(0, np.int64)).shape == (0, 6, 32, 32)


def test_an_encrypted_cohort_gives_the_pixels_and_tables_of_the_one_in_clear(
    site, study, write_cohort, encrypting, tmp_path
):
    write_cohort(site, study)
    plain = open_cohort(site, study)
    clear = plain.pixels(np.arange(48))
    shutil.copytree(plain.folder, tmp_path / "clear")
    sealed = encrypting(site, True)
    write_cohort(sealed, study)
    cohort = open_cohort(sealed, study)
    np.testing.assert_array_equal(cohort.pixels(np.arange(48)), clear)
    for name in ("examples", "patients"):
        np.testing.assert_array_equal(getattr(cohort, name), np.load(tmp_path / "clear" / f"{name}.npy"))


def test_an_encrypted_cohort_shows_nothing_of_itself(site, study, write_cohort, encrypting):
    folder = write_cohort(site, study, files={"report": b"something said of a patient"})
    planes = np.load(folder / "planes.npy")
    rows = [row.tobytes()[:8] for row in planes.reshape(-1, 32)]
    tables = [np.load(folder / f"{name}.npy")["label"].tobytes() for name in ("examples", "patients")]
    pseudonyms = [bytes(one) for one in np.load(folder / "patients.npy")["pseudonym"]]
    assert all(row in (folder / "planes.npy").read_bytes() for row in rows[:50])
    write_cohort(encrypting(site, True), study, files={"report": b"something said of a patient"})
    names = {path.name for path in folder.iterdir()}
    sealed = {f"{name}.sealed" for name in ("planes.npy", "examples.npy", "patients.npy", "manifest.json", "report")}
    assert names == sealed | {"encrypted.json"}
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    words = [b"said of a patient", b"NUMPY", b"cohort_digest", b"source", study.cohort_digest[:16].encode()]
    for planted in [*rows, *tables, *pseudonyms, *words]:
        assert planted not in content


def swap_records(path, size):
    content = path.read_bytes()
    path.write_bytes(content[size : 2 * size] + content[:size] + content[2 * size :])


def test_records_of_planes_cant_be_swapped_or_altered(site, study, write_cohort, encrypting):
    site = encrypting(site, True)
    folder = write_cohort(site, study)
    path = folder / "planes.npy.sealed"
    record = 2 * 32 * 32 + 28
    whole = path.read_bytes()
    assert len(whole) == 48 * record
    swap_records(path, record)
    cohort = open_cohort(site, study)
    cohort.pixels(np.arange(8, 48))  # what was not touched opens
    with pytest.raises(DataError, match="a plane was altered"):
        cohort.pixels(np.array([0]))
    for place in (0, 11, 12, record // 2, record - 1):
        altered = bytearray(whole)
        altered[5 * record + place] ^= 1
        path.write_bytes(altered)
        with pytest.raises(DataError, match="a plane was altered"):
            open_cohort(site, study).pixels(np.array([5]))


@pytest.mark.parametrize("name", ["planes.npy.sealed", "examples.npy.sealed", "manifest.json.sealed"])
def test_files_of_an_earlier_writing_or_of_another_cohort_are_refused(
    site, study, make_study, write_cohort, encrypting, tmp_path, name
):
    site = encrypting(site, True)
    earlier = tmp_path / "earlier"
    shutil.copytree(write_cohort(site, study), earlier)
    folder = write_cohort(site, study)
    other = write_cohort(site, make_study(windows=WINDOWS, spacing_mm=1.5))
    for source in (earlier, other):
        kept = (folder / name).read_bytes()
        shutil.copy(source / name, folder / name)
        with pytest.raises(DataError, match=r"damaged|does not open|altered"):
            open_cohort(site, study).pixels(np.array([0]))
        (folder / name).write_bytes(kept)
        open_cohort(site, study).pixels(np.array([0]))


def test_a_wrong_or_missing_key_is_one_clear_line(site, study, write_cohort, encrypting, monkeypatch):
    site = encrypting(site, True)
    write_cohort(site, study)
    secret = site.key_file.read_text()
    site.key_file.write_text("ab" * 32)
    with pytest.raises(DataError, match="does not open with the site key"):
        open_cohort(site, study)
    assert reusable_cohort(site, study, "source") is None
    site.key_file.unlink()
    with pytest.raises(SiteError, match=r"site\.key' does not exist"):
        open_cohort(site, study)
    assert not site.key_file.exists()
    monkeypatch.setenv(ENVIRONMENT, secret.strip())
    assert len(open_cohort(site, study).patients) == 12


def test_a_cohort_is_reused_only_for_the_same_files_and_encryption(site, study, write_cohort, encrypting):
    write_cohort(site, study, source="one")
    assert reusable_cohort(site, study, "one") is not None
    assert reusable_cohort(site, study, "two") is None
    assert reusable_cohort(encrypting(site, True), study, "one") is None
    write_cohort(encrypting(site, True), study, source="one")
    assert reusable_cohort(encrypting(site, True), study, "one") is not None
    assert reusable_cohort(site, study, "one") is None


def test_the_manifest_says_what_made_the_cohort(opened, study):
    manifest = opened.manifest
    assert (manifest["format"], manifest["planes"], manifest["source"]) == (3, 48, "source")
    assert manifest["cohort_digest"] == study.cohort_digest == cohort_digest_of(manifest["settings"])
    assert manifest["study_digest"] == study.digest
    assert manifest["settings"] == study.cohort_settings
    assert manifest["settings"]["input"]["spacing_mm"] == 1.0
    assert manifest["code_version"]


def test_patients_carry_the_pseudonym_of_the_site_key(opened, site):
    key = load_key(site.key_file)
    expected = [list(key.pseudonym("patient", f"P{number}")) for number in range(12)]
    np.testing.assert_array_equal(opened.patients["pseudonym"], expected)


def test_a_study_of_other_settings_cant_open_the_cohort(opened, site, study, make_study):
    with pytest.raises(DataError, match="has no cohort") as caught:
        open_cohort(site, make_study(windows=WINDOWS, spacing_mm=1.5))
    assert "fedct-site ingest" in caught.value.remedy
    training = study.training.model_copy(update={"local_steps": 9})
    assert open_cohort(site, study.model_copy(update={"training": training})).folder == opened.folder
    other = make_study(windows=WINDOWS, spacing_mm=1.0, split_seed=1)
    shutil.copytree(opened.folder, site.cohorts_dir / other.cohort_digest[:16])
    with pytest.raises(DataError, match="does not open" if opened.encrypted else "made for another"):
        open_cohort(site, other)


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


def change(**values):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_settings(path):
    manifest = json.loads(path.read_text())
    manifest["settings"]["input"]["spacing_mm"] = 3.0
    path.write_text(json.dumps(manifest))


def objects(path):
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def empty(path):
    path.write_bytes(b"")


def gone(path):
    path.unlink()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("planes.npy", damage) for damage in (cut, other_shape, fewer, objects, gone, empty)),
        *(("examples.npy", damage) for damage in (cut, rewrite, gone)),
        *(("patients.npy", damage) for damage in (rewrite, gone)),
        *(("manifest.json", damage) for damage in (cut, gone, empty, other_settings)),
        ("manifest.json", change(format=1)),
        ("manifest.json", change(planes=47)),
        ("manifest.json", change(planes="48")),
        ("manifest.json", change(settings=[])),
        ("manifest.json", lambda path: path.write_text("[]")),
        ("manifest.json", lambda path: path.write_text("{}")),
        ("manifest.json", lambda path: path.write_bytes(b"\xff")),
    ],
)
def test_a_damaged_cohort_is_refused(site, study, write_cohort, name, damage):
    damage(write_cohort(site, study) / name)
    with pytest.raises(DataError, match="is damaged"):
        open_cohort(site, study)
    assert reusable_cohort(site, study, "source") is None


@pytest.mark.parametrize("damage", [cut, rewrite, empty, gone, lambda path: path.write_text("[]")])
@pytest.mark.parametrize("name", ["examples.npy.sealed", "manifest.json.sealed", "encrypted.json", "planes.npy.sealed"])
def test_a_damaged_encrypted_cohort_is_refused(site, study, write_cohort, encrypting, name, damage):
    site = encrypting(site, True)
    damage(write_cohort(site, study) / name)
    with pytest.raises(DataError, match=r"is damaged|does not open|altered"):
        open_cohort(site, study).pixels(np.arange(48))


def test_further_files_are_read_back(site, study, write_cohort, encrypting):
    for encrypt in (False, True):
        this = encrypting(site, encrypt)
        folder = write_cohort(this, study, files={"ingest-report.json": b"{}"})
        assert open_folder(this, folder).read_file("ingest-report.json") == b"{}"
        with pytest.raises(DataError, match="is damaged"):
            open_folder(this, folder).read_file("other")


def test_a_cohort_is_immutable(opened):
    with pytest.raises(dataclasses.FrozenInstanceError):
        opened.folder = None
    if not opened.encrypted:
        with pytest.raises(ValueError, match="read-only"):
            opened.planes[0] = 0
