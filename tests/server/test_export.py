from __future__ import annotations

import io
import json

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from typer.testing import CliRunner

from common.errors import RunError, UsageError
from common.models.saved import load_saved
from common.models.weights import initial_model, save_weights
from server import export
from server.cli import app
from server.run_folder import RunFolder


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, small_study):
    """A run whose model has two windows, so six channels."""
    study = small_study(input={"windows": [{"low": -1000, "high": 0}, {"low": 0, "high": 1000}]})
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.prepare(study, folder.root)
    digest = save_weights(folder.model_file, initial_model(study, 0), {"study": study.digest})
    return folder, study, digest


def carried_by(content, name):
    """The digests in an exported file, read as its user would."""
    if name == export.ONNX:
        (text,) = [p.value for p in onnx.load_from_string(content).metadata_props if p.key == "fedct"]
    else:
        extra = {"fedct.json": ""}
        with export._old_format():
            torch.jit.load(io.BytesIO(content), _extra_files=extra)
        text = extra["fedct.json"]
    return json.loads(text)


@pytest.mark.slow
def test_other_formats_give_the_same_logits_for_any_number_of_examples(run_folder):
    folder, study, digest = run_folder
    result = CliRunner().invoke(app, ["export", str(folder.root), "--onnx", "--torchscript"])
    assert result.exit_code == 0, result.exception
    inputs = torch.randn(5, 6, 32, 32, generator=torch.Generator().manual_seed(9))
    expected = load_saved(folder.model_file, study).network(inputs).detach().numpy()
    content = {name: (folder.root / name).read_bytes() for name in (export.ONNX, export.TORCHSCRIPT)}
    (found,) = ReferenceEvaluator(onnx.load_from_string(content[export.ONNX])).run(None, {"input": inputs.numpy()})
    assert np.allclose(found, expected, atol=1e-4)
    assert np.allclose(export._run_torchscript(content[export.TORCHSCRIPT], inputs), expected, atol=1e-4)
    for name, data in content.items():
        assert carried_by(data, name) == {"study": study.digest, "model_sha256": digest}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pooling", "formats"), [("attention", ["--onnx", "--torchscript"]), ("gru", ["--torchscript"])]
)
def test_a_model_that_pools_takes_any_number_of_views(tmp_path, small_study, pooling, formats):
    """The command itself compares the formats with the model, on other numbers of views and patients."""
    folder = RunFolder(tmp_path)
    study = small_study(model={"pooling": pooling}, privacy={"unit": "off"})
    folder.prepare(study, tmp_path)
    save_weights(folder.model_file, initial_model(study, 0), {"study": study.digest})
    result = CliRunner().invoke(app, ["export", str(tmp_path), *formats])
    assert result.exit_code == 0, result.exception


def test_a_gru_is_not_written_as_onnx(tmp_path, small_study):
    folder = RunFolder(tmp_path)
    study = small_study(model={"pooling": "gru"}, privacy={"unit": "off"})
    folder.prepare(study, tmp_path)
    save_weights(folder.model_file, initial_model(study, 0), {"study": study.digest})
    with pytest.raises(UsageError, match="--torchscript"):
        export.export_model(folder, to_onnx=True, to_torchscript=False)


def test_a_format_that_differs_is_not_kept(run_folder, monkeypatch):
    folder, _, _ = run_folder
    monkeypatch.setattr(export, "_to_torchscript", lambda _model, _inputs: b"")
    monkeypatch.setattr(export, "_run_torchscript", lambda _content, inputs: np.zeros((len(inputs), 2), np.float32))
    before = {path.name for path in folder.root.iterdir()}
    with pytest.raises(RunError, match="differ by"):
        export.export_model(folder, to_onnx=False, to_torchscript=True)
    assert {path.name for path in folder.root.iterdir()} == before


def test_a_run_without_a_model_and_a_call_without_a_format_are_named(tmp_path):
    with pytest.raises(UsageError, match="holds no model"):
        export.export_model(RunFolder(tmp_path), to_onnx=True, to_torchscript=False)
    assert isinstance(CliRunner().invoke(app, ["export", str(tmp_path)]).exception, UsageError)
