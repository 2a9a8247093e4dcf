from __future__ import annotations

import re
import stat

import pytest
from typer.testing import CliRunner

from client.audit_log import AuditLog
from client.cli import app
from client.site import SiteConfig, create_site
from common.errors import DataError
from common.models.weights import initial_model, save_weights


@pytest.fixture
def place(tmp_path, write_cohort, make_study, study_file):
    """A site with a cohort of 12 patients, 3 of them held out, and a model for it."""
    study = make_study(classes=["<i>no</i>", "yes"])
    site = create_site(tmp_path / "site", SiteConfig(name="site-1"))
    write_cohort(site, study)
    study_file(tmp_path / "study.toml", study)
    save_weights(tmp_path / "model.safetensors", initial_model(study, 0), {"study": study.digest})
    return tmp_path


def explain(place, site="site"):
    words = ["--site", place / site, "--study", place / "study.toml", "--model", place / "model.safetensors"]
    return CliRunner().invoke(app, ["explain", *map(str, words), "--out", str(place / "page.html")])


def test_the_page_shows_each_held_out_patient_once_and_for_its_owner_alone(place):
    result = explain(place)
    assert result.exit_code == 0, result.exception
    page = (place / "page.html").read_text()
    assert len(re.findall(r"<figure class=\"row\">", page)) == 3
    assert page.count("data:image/png;base64,") == 9
    assert len(set(re.findall(r"<figcaption>(\w{6}):", page))) == 3
    assert "<i>no" not in page
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []
    assert stat.S_IMODE((place / "page.html").stat().st_mode) == 0o600


def test_the_audit_log_says_so_and_names_no_patient(place):
    explain(place)
    (entry,) = AuditLog(place / "site" / "audit.log").read()
    assert (entry.kind, set(entry.details)) == ("explained", {"study", "model"})


def test_the_same_cohort_and_model_show_the_same_patients(place):
    explain(place)
    first = re.findall(r"<figcaption>.*", (place / "page.html").read_text())
    explain(place)
    assert re.findall(r"<figcaption>.*", (place / "page.html").read_text()) == first


def test_without_a_cohort_nothing_is_written(place):
    create_site(place / "other", SiteConfig(name="site-2"))
    assert isinstance(explain(place, "other").exception, DataError)
    assert not (place / "page.html").exists()
