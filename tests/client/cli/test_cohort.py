from __future__ import annotations

import json
import stat

import pytest
from typer.testing import CliRunner

from client.cli import app
from client.ingest.report import ClassCount, IngestReport, account, study_identity
from client.site import create_site
from common.errors import DataError, UsageError


@pytest.fixture(params=[False, True], ids=["in clear", "encrypted"])
def shown(request, tmp_path, site, encrypting, write_cohort, make_study, study_file):
    """A site with the cohorts of two studies; returns a function that runs ``cohort show``."""
    config = encrypting(site, request.param).config
    made = create_site(tmp_path / "hospital", config)
    for number, study in enumerate((make_study(), make_study(spacing_mm=3.0))):
        report = IngestReport(
            study=study_identity(study),
            files=account([], frozenset("abc"), 3),
            series=12,
            corrected={},
            chosen_by={},
            studies=12,
            patients=12,
            held_out=3,
            examples=48,
            classes={"no": ClassCount(48, 12 + number, 3)},
            labels={},
            distributions={},
            encrypted=request.param,
        )
        files = {"ingest-report.json": report.to_json().encode(), "ingest-report.html": f"<page {number}>".encode()}
        write_cohort(made, study, files=files)
        study_file(tmp_path / f"{number}.toml", study)

    def show(*arguments):
        return CliRunner().invoke(app, ["cohort", "show", "--site", str(made.folder), *map(str, arguments)])

    return show


def test_all_cohorts_are_shown_in_short(shown):
    result = shown()
    assert result.exit_code == 0, result.exception
    assert result.stdout.count("12 patients (3 held out)") == 2
    assert result.stdout.count("3 of 3 files used") == 2


def test_the_cohort_of_a_study_is_shown_as_json(shown, tmp_path):
    result = shown("--study", tmp_path / "1.toml", "--json")
    assert json.loads(result.stdout)["classes"]["no"]["patients"] == 13
    assert [one["classes"]["no"]["patients"] for one in json.loads(shown("--json").stdout)] in ([12, 13], [13, 12])


def test_the_page_is_written_where_asked_readable_by_its_owner_alone(shown, tmp_path):
    result = shown("--study", tmp_path / "1.toml", "--page", tmp_path / "out.html")
    assert "shows images of patients" in result.stdout
    assert (tmp_path / "out.html").read_text() == "<page 1>"
    assert stat.S_IMODE((tmp_path / "out.html").stat().st_mode) == 0o600
    assert isinstance(shown("--page", tmp_path / "two.html").exception, UsageError)
    assert not (tmp_path / "two.html").exists()


def test_a_site_without_a_cohort_says_so(tmp_path, site, make_study, study_file):
    made = create_site(tmp_path / "empty", site.config)
    study_file(tmp_path / "study.toml", make_study())
    for more in ([], ["--study", str(tmp_path / "study.toml")]):
        result = CliRunner().invoke(app, ["cohort", "show", "--site", str(made.folder), *more])
        assert isinstance(result.exception, DataError)
        assert "has no cohort" in str(result.exception)
