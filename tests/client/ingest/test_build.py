from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from unittest import mock

import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless

from client.ingest import build, headers, ingest, open_cohort, scan
from client.ingest.headers import read_sources
from client.ingest.pool import Workers
from client.ingest.records import Reason
from client.keys import load_or_make_key
from common.errors import DataError, SiteError, StorageError

PLANTED = ("Secretpatient", "1.2.34567.1", "1.2.34567.2", "19770611", "St. Planted Hospital")
VOXELS = np.full((5, 40, 40), -1000.0)
VOXELS[:, 8:32, 8:32] = 40
VOXELS += np.random.default_rng(0).integers(-30, 31, VOXELS.shape)


@pytest.fixture
def folder(tmp_path, write_series):
    """Six patients of 5 slices, with a text file, an MR and a short series among them."""
    root = tmp_path / "dicom"
    for number in range(6):
        write_series(root / f"export {number}", VOXELS, patient_id=f"P{number}")
    (root / "README").write_text("an export")
    write_series(root / "mr", VOXELS, patient_id="P0", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    write_series(root / "short", VOXELS[:2], patient_id="P1")
    label(tmp_path, *(f"P{number},{'yes' if number % 2 else 'no'}" for number in range(6)))
    return root


def label(tmp_path, *rows):
    (tmp_path / "labels.csv").write_text("\n".join(["patient_id,label", *rows]))


def left(site) -> list[str]:
    """What lies in the cohorts folder beside the lock."""
    return sorted(path.name for path in site.cohorts_dir.iterdir() if path.name != ".lock")


def content(cohort) -> dict[str, bytes]:
    """The files of a cohort but for its report, which holds times."""
    return {path.name: path.read_bytes() for path in cohort.iterdir() if not path.name.startswith("ingest-report")}


def test_every_file_is_accepted_or_skipped_with_a_reason(folder, site, make_study):
    report = ingest(site, make_study())
    assert report.files.refused == {"not-dicom": 1, "not-ct": 5, "too-few-slices": 2}
    assert report.files.total == report.files.accepted + sum(report.files.refused.values()) == 38
    assert (report.series, report.patients, report.examples) == (6, 6, 30)
    assert {name: count.examples for name, count in report.classes.items()} == {"no": 15, "yes": 15}
    assert [skip.path for skip in report.skips if skip.reason == Reason.NOT_DICOM] == ["README"]
    text = "\n".join(report.lines())
    assert "30 of 38 files used" in text
    assert "5 left out: not-ct" in text
    assert "MR Image Storage: 5" in text


def test_a_report_has_a_row_for_every_file_of_every_kind(folder, site, make_study, tmp_path):
    """Archives, their members, copies, links and junk: each in one row, and the rows add up."""
    (folder / "export 1").rename(tmp_path / "packed")
    with zipfile.ZipFile(folder / "export.zip", "w") as archive:
        for path in (tmp_path / "packed").iterdir():
            archive.write(path, f"P1/{path.name}")
        archive.writestr("note.txt", "an archive")
    shutil.copytree(folder / "export 2", folder / "copies")
    (folder / "loop").symlink_to(folder)
    (folder / "broken").symlink_to(folder / "nowhere")
    report = ingest(site, make_study())
    assert report.files.refused == {
        "archive": 1,
        "duplicate-instance": 5,
        "not-a-file": 1,
        "not-ct": 5,
        "not-dicom": 2,
        "too-few-slices": 2,
    }
    assert (report.files.accepted, report.files.total, report.patients) == (30, 46, 6)


def test_a_scan_that_was_interrupted_goes_on_where_it_was(folder, site, make_study, monkeypatch):
    read = []

    def counted(root, sources):
        read.extend(sources)
        return read_sources(root, sources)

    def interrupted(done, _total):
        if done >= 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(scan, "_CHUNK", 4)
    monkeypatch.setattr(scan, "read_sources", counted)
    with pytest.raises(KeyboardInterrupt):
        ingest(site, make_study(), progress=interrupted)
    before = set(read)
    read.clear()
    assert ingest(site, make_study()).patients == 6
    assert len(before) >= 20
    assert len(before & set(read)) <= 4  # the chunk at hand
    assert len(before | set(read)) == 38


def test_the_next_study_reads_no_header_again(folder, site, make_study, monkeypatch):
    ingest(site, make_study())

    def unexpected(_root, sources):
        raise AssertionError(sources)

    monkeypatch.setattr(scan, "read_sources", unexpected)
    report = ingest(site, make_study(size=64))
    assert report.patients == 6
    assert report.files.since_last_scan == {"new": 0, "changed": 0, "removed": 0, "unchanged": 38}


def test_file_names_of_any_bytes_are_taken_and_shown_nowhere(folder, site, make_study):
    os.rename(folder / "export 1", os.fsencode(folder) + b"/M\xfcller")
    os.rename(folder / "README", os.fsencode(folder) + b"/\xfc\x1b[2J")
    report = ingest(site, make_study())
    assert report.patients == 6
    text = "\n".join(report.lines())
    assert "\x1b" not in text
    assert "ller" not in text
    assert ingest(site, make_study()).reused


def test_labels_without_data_and_data_without_label_are_counted(folder, site, make_study, tmp_path):
    label(tmp_path, "P0,yes", "P1,no", "unknown-1,yes", "unknown-2,no")
    report = ingest(site, make_study())
    assert report.files.refused["no-label"] == 20
    text = "\n".join(report.lines())
    assert "2 rows of the label table without data here (lines 4, 5)" in text
    assert "4 patients without a label" in text


def test_progress_counts_every_file_twice_and_never_goes_back(folder, site, make_study):
    calls = []
    ingest(site, make_study(), progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (76, 76)
    assert {total for _, total in calls} == {76}


def test_an_unchanged_folder_is_not_read_again(folder, site, make_study, monkeypatch):
    study = make_study()
    first = ingest(site, study)
    monkeypatch.setattr(build, "scan", None)
    again = ingest(site, study)
    assert again.reused
    assert not first.reused
    assert again.files == first.files
    assert again.classes == first.classes
    assert "reused" in again.lines()[0]


@pytest.mark.parametrize("change", ["file added", "file removed", "file touched", "label changed"])
def test_a_change_of_files_or_labels_is_noticed(folder, site, make_study, tmp_path, change):
    study = make_study()
    ingest(site, study)
    if change == "file added":
        (folder / "new").write_text("x")
    elif change == "file removed":
        shutil.rmtree(folder / "export 3")
    elif change == "file touched":
        os.utime(folder / "README", ns=(1, 1))
    else:
        label(tmp_path, "P0,yes", "P1,yes", "P2,no")
    report = ingest(site, study)
    assert not report.reused
    assert report.patients == {"file removed": 5, "label changed": 3}.get(change, 6)
    assert left(site) == [study.cohort_digest[:16]]


def test_the_same_files_make_the_same_cohort_byte_for_byte(folder, site, make_study, tmp_path):
    study = make_study()
    ingest(site, study)
    cohort = open_cohort(site, study).folder
    first = content(cohort)
    shutil.rmtree(cohort)
    folder.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(folder)
    ingest(site, study)
    assert content(cohort) == first


def test_studies_of_other_input_lie_side_by_side(folder, site, make_study):
    studies = [make_study(), make_study(view="sagittal", planes=2, slice_spacing_mm=3)]
    for study in studies:
        ingest(site, study)
    assert left(site) == sorted(study.cohort_digest[:16] for study in studies)
    sagittal = open_cohort(site, studies[1])
    assert sagittal.planes.shape == (6 * 4, 1, 32, 32)
    assert sagittal.examples["planes"][:2].tolist() == [[0, 1, 2], [1, 2, 3]]


def test_nothing_of_the_header_is_in_the_store(site, make_study, write_series, tmp_path):
    tags = {
        "StudyInstanceUID": PLANTED[1],
        "SeriesInstanceUID": PLANTED[2],
        "PatientBirthDate": PLANTED[3],
        "InstitutionName": PLANTED[4],
    }
    uids = write_series(tmp_path / "dicom" / "folder-of-secret", VOXELS, patient_id=PLANTED[0], **tags)
    label(tmp_path, f"{PLANTED[0]},yes")
    ingest(site, make_study())
    secrets = [*PLANTED, *uids, "Planted^Name", "folder-of-secret", str(tmp_path)]
    files = [path for path in site.cohorts_dir.rglob("*") if path.is_file()]
    assert len(files) == 7
    for path in files:
        content = path.read_bytes()
        for secret in secrets:
            assert secret.encode() not in content, path.name
            assert secret.encode("utf-16-le") not in content, path.name


def test_a_slice_that_is_cut_short_is_left_out(folder, site, make_study):
    path = min((folder / "export 2").iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    report = ingest(site, make_study())
    assert report.patients == 6
    assert report.files.refused["pixels-unreadable"] == 1


def test_a_slice_that_does_not_decode_costs_its_series_and_no_more(folder, site, make_study):
    path = min((folder / "export 2").iterdir())
    dataset = pydicom.dcmread(path)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([frame[:60] + bytes(len(frame) - 60)])
    dataset.save_as(path)
    report = ingest(site, make_study())
    assert report.patients == 5
    assert report.files.refused["pixels-unreadable"] == 5


def refused(site, study) -> str:
    with pytest.raises(DataError) as caught:
        ingest(site, study)
    assert not site.cohorts_dir.exists() or left(site) == []
    return str(caught.value)


def test_each_thing_that_is_missing_has_its_own_line(folder, site, make_study, tmp_path):
    study = make_study()
    label(tmp_path, "Q1,yes")
    assert "no row of" in refused(site, study)
    label(tmp_path, "P1,maybe")
    assert "line 2: label = 'maybe'" in refused(site, study)
    (tmp_path / "labels.csv").unlink()
    assert "label table" in refused(site, study)
    label(tmp_path, "P0,yes")
    for path in folder.iterdir():
        if path.name not in {"mr", "short", "README"}:
            shutil.rmtree(path)
    assert "no CT series that can be used (files: 5 not-ct, 2 too-few-slices, 1 not-dicom)" in refused(site, study)
    shutil.rmtree(folder)
    assert "does not exist" in refused(site, study)
    folder.mkdir()
    assert "holds no readable file" in refused(site, study)


@pytest.mark.parametrize("content", ["", "patient_id\nP0\n", "patient_id,label\nP0,maybe\n"])
def test_a_table_that_cant_be_used_is_told_before_any_file_is_read(site, folder, make_study, monkeypatch, content):
    monkeypatch.setattr(build, "scan", None)
    (site.folder.parent / "labels.csv").write_text(content)
    with pytest.raises(DataError, match="label table"):
        ingest(site, make_study())


def test_a_failed_ingest_leaves_the_former_cohort(folder, site, make_study, tmp_path):
    study = make_study()
    ingest(site, study)
    label(tmp_path, "Q,yes")
    with pytest.raises(DataError):
        ingest(site, study)
    assert len(open_cohort(site, study).patients) == 6


def test_a_full_disk_is_one_line_and_leaves_nothing(folder, site, make_study):
    # A limit on the size of a file fails a write as a full disk does; 256 * 256 * 30 bytes are wanted.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(StorageError, match="no space left"):
            ingest(site, make_study(size=256))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left(site) == []


def test_a_disk_that_fills_at_the_last_flush_is_the_same(folder, site, make_study, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        ingest(site, make_study())
    assert left(site) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["client.ingest.build.make_planes", "os.fsync", "client.ingest.store.fsync_folder"])
def test_killed_at_any_moment_there_is_a_whole_cohort_or_none(folder, site, make_study, moment):
    study = make_study()
    load_or_make_key(site.key_file)  # its flush is not the moment that is meant
    code = (
        "import os, sys, time, pathlib, importlib\n"
        "from client.site import Site, SiteConfig\n"
        "from client.ingest import ingest\n"
        "from common.study import study_from_json\n"
        f"name, attribute = {moment!r}.rsplit('.', 1)\n"
        "def wait(*args):\n"
        "    os.write(1, b'here\\n')  # whole at once: two threads may both come here\n"
        "    time.sleep(60)\n"
        "setattr(importlib.import_module(name), attribute, wait)\n"
        "config = SiteConfig.model_validate_json(sys.argv[2])\n"
        "ingest(Site(pathlib.Path(sys.argv[1]), config), study_from_json(sys.argv[3]))\n"
    )
    arguments = [str(site.folder), site.config.model_dump_json(), study.canonical_json()]
    with subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"here\n"
        with pytest.raises(SiteError, match="another ingest"):
            ingest(site, study)
        process.send_signal(signal.SIGKILL)
    assert [name[:9] for name in left(site)] == [".partial-"]
    with pytest.raises(DataError, match="has no cohort"):
        open_cohort(site, study)
    assert ingest(site, study).patients == 6
    assert left(site) == [study.cohort_digest[:16]]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["threads", "processes"])
def test_two_workers_make_the_same_cohort_as_one(folder, site, make_study, monkeypatch, how):
    study = make_study()
    if how == "processes":
        monkeypatch.setattr(headers, "locate", lambda *_: None)
        monkeypatch.setattr(build, "_MANY_SLICES", 1)
    ingest(site, study, workers=1)
    cohort = open_cohort(site, study).folder
    first = content(cohort)
    shutil.rmtree(cohort)
    name = "map_threads" if how == "threads" else "map_apart"
    with mock.patch.object(Workers, name, autospec=True, side_effect=getattr(Workers, name)) as used:
        report = ingest(site, study, workers=2)
    assert used.called
    assert report.patients == 6
    assert content(cohort) == first
