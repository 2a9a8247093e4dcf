from __future__ import annotations

import csv
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from client.cli import app
from client.cli.ingest import site_name
from client.site import PolicySettings, load_site
from common.errors import DataError, SiteError, StudyError, UsageError

VOXELS = np.random.default_rng(0).normal(40, 30, (5, 48, 48)).round()
VOXELS[:, :12] = -1000


@pytest.fixture
def export(tmp_path, write_series, make_study, study_file):
    """A DICOM folder of four patients with a text file in it, its label table, and a study file."""
    rows = ["patient_id,label"]
    for number in range(4):
        write_series(tmp_path / "export" / f"folder {number}", VOXELS, patient_id=f"P{number}", seed=number)
        rows.append(f"P{number},{'yes' if number % 2 else 'no'}")
    (tmp_path / "export" / "note^of-Secret").write_text("an export")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    study_file(tmp_path / "study.toml", make_study())
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ingest(export, *more, site="Hospital 1"):
    return run("ingest", "--study", export / "study.toml", "--site", export / site, *more)


def test_a_new_site_is_made_with_the_strictest_policy(export, monkeypatch):
    monkeypatch.chdir(export)
    result = ingest(export, "export", "--labels", "labels.csv")
    assert result.exit_code == 0, result.exception
    assert "Made site 'hospital-1'" in result.stdout
    assert "20 of 21 files used" in result.stdout
    assert "1 left out: not-dicom" in result.stdout
    assert "Secret" not in result.output
    site = load_site(export / "Hospital 1")
    assert site.config.policy == PolicySettings()
    assert (site.dicom_dir, site.labels_file) == (export / "export", export / "labels.csv")
    again = ingest(export)
    assert "reused" in again.stdout
    assert "Made site" not in again.stdout


def test_json_is_the_report_and_nothing_else(export):
    result = ingest(export, export / "export", "--labels", export / "labels.csv", "--json")
    report = json.loads(result.stdout)
    assert report["files"]["total"] == report["files"]["accepted"] + sum(report["files"]["refused"].values()) == 21
    assert report["files"]["refused"] == {"not-dicom": 1}
    assert report["patients"]["accepted"] == 4
    assert "Reading DICOM" in result.stderr
    again = json.loads(ingest(export, "--json").stdout)
    assert again["reused"]
    assert again["files"] | {"since_last_scan": 0} == report["files"] | {"since_last_scan": 0}


def test_other_paths_than_those_of_the_site_are_for_one_run(export):
    ingest(export, export / "export", "--labels", export / "labels.csv")
    before = (export / "Hospital 1" / "site.toml").read_bytes()
    (export / "other.csv").write_text("patient_id,label\nP0,no\nP1,yes\n")
    result = ingest(export, "--labels", export / "other.csv", "--json")
    assert json.loads(result.stdout)["patients"]["accepted"] == 2
    assert (export / "Hospital 1" / "site.toml").read_bytes() == before
    assert json.loads(ingest(export, "--json").stdout)["patients"]["accepted"] == 4


def test_refused_files_are_listed_where_asked(export):
    name = os.fsdecode(b'M\xfcller, "x"')
    (export / "export" / name).write_text("text")
    result = ingest(export, export / "export", "--labels", export / "labels.csv", "--refused", export / "refused.csv")
    assert result.exit_code == 0, result.exception
    with (export / "refused.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "reason", "detail"]
    assert sorted(row[:2] for row in rows[1:]) == sorted([["note^of-Secret", "not-dicom"], [name, "not-dicom"]])
    assert stat.S_IMODE((export / "refused.csv").stat().st_mode) == 0o600


def test_a_list_of_refused_files_is_also_made_when_nothing_changed(export):
    ingest(export, export / "export", "--labels", export / "labels.csv")
    ingest(export, "--refused", export / "refused.csv")
    assert "note^of-Secret,not-dicom" in (export / "refused.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ([], UsageError, "Give DICOM_DIR"),
        (["nowhere"], UsageError, "DICOM folder 'nowhere' does not exist"),
        (["export", "--labels", "nowhere.csv"], DataError, "nowhere.csv' does not exist"),
        (["export", "--study", "nowhere.toml"], StudyError, "nowhere.toml' does not exist"),
    ],
)
def test_what_is_missing_is_named(export, monkeypatch, arguments, error, words):
    monkeypatch.chdir(export)
    result = ingest(export, *arguments)
    assert isinstance(result.exception, error)
    assert words in str(result.exception)
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("folder", "name"),
    [("hospital-1", "hospital-1"), ("Klinikum Süd (CT)", "klinikum-s-d-ct"), ("_x.", "x"), ("a" * 80, "a" * 63)],
)
def test_a_site_is_named_after_its_folder(folder, name):
    assert site_name(Path("/somewhere") / folder) == name


def test_a_folder_that_gives_no_name_is_refused():
    with pytest.raises(SiteError, match="no site name"):
        site_name(Path("/病院"))
