from __future__ import annotations

import json
import re
import stat

import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from client.audit_log import AuditLog
from client.cli import app
from client.site import SiteConfig, create_site
from common.errors import StudyError, UsageError
from common.models.weights import initial_model, save_weights


@pytest.fixture
def place(tmp_path, write_series, make_study, study_file, monkeypatch):
    """A folder with a CT, a study and its model, in which commands are typed."""
    study = make_study(view="coronal", slice_spacing_mm=2.0, planes=2, classes=["<b>odd</b>", "yes"])
    voxels = np.random.default_rng(0).normal(40, 30, (8, 40, 40)).round()
    voxels[:, :12] = -1000
    write_series(tmp_path / "ct", voxels, patient_id="Planted-Id")
    study_file(tmp_path / "study.toml", study)
    save_weights(tmp_path / "model.safetensors", initial_model(study, 0), {"study": study.digest})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predict(*more, model="model.safetensors"):
    words = ["predict", "ct", "--model", model, "--study", "study.toml", "--out", "out", *more]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_everything_is_written_for_its_owner_alone(place):
    result = predict()
    assert result.exit_code == 0, result.exception
    files = {str(path.relative_to(place / "out")) for path in (place / "out").rglob("*") if path.is_file()}
    assert files == {"prediction.json", "report.html", "map.dcm", "report.dcm", "heatmap/0001.dcm", "heatmap/0002.dcm"}
    for path in [place / "out", *(place / "out").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert "likeliest" in result.stdout
    assert "do not use it to decide about a patient" in result.stdout


def test_json_is_what_was_written_and_its_probabilities_add_up(place):
    result = predict("--json")
    content = json.loads(result.stdout)
    assert content == json.loads((place / "out" / "prediction.json").read_text())
    assert sum(one["value"] for one in content["classes"]) == pytest.approx(1, abs=1e-5)
    assert content["study_uid"] == pydicom.dcmread(place / "out" / "report.dcm").StudyInstanceUID
    assert len(content["planes"]) == 2


def test_the_page_is_self_contained_escaped_and_names_no_patient(place):
    predict()
    page = (place / "out" / "report.html").read_text()
    assert "Planted" not in page
    assert "<b>odd" not in page
    assert "&lt;b&gt;odd" in page
    assert "do not use it to decide about a patient" in page
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []


def test_with_a_site_its_audit_log_says_so_and_names_no_patient(place):
    site = create_site(place / "site", SiteConfig(name="site-1"))
    predict("--site", "site")
    (entry,) = AuditLog(site.audit_file).read()
    assert entry.kind == "predicted"
    assert set(entry.details) == {"study", "model"}


def test_results_are_never_written_over(place):
    predict()
    before = (place / "out" / "prediction.json").read_bytes()
    result = predict()
    assert isinstance(result.exception, UsageError)
    assert "nothing is overwritten" in str(result.exception)
    assert (place / "out" / "prediction.json").read_bytes() == before


def test_a_model_of_another_study_is_refused_and_nothing_is_written(place, make_study):
    save_weights(place / "other.safetensors", initial_model(make_study(), 0), {"study": make_study().digest})
    result = predict(model="other.safetensors")
    assert isinstance(result.exception, StudyError)
    assert "was trained by study" in str(result.exception)
    assert not (place / "out").exists()


def test_a_failure_on_the_way_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr("client.prediction.write._file", lambda _dataset: (_ for _ in ()).throw(RuntimeError("boom")))
    assert predict().exit_code != 0
    assert [path.name for path in place.iterdir() if "out" in path.name] == []
