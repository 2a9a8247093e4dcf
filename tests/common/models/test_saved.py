from __future__ import annotations

import pytest
import safetensors.torch
import torch

from common.errors import StudyError, UsageError
from common.models.saved import load_saved
from common.models.weights import initial_model, save_weights, to_vector


@pytest.fixture
def saved(tmp_path, make_study):
    """A model file, its network and its study."""
    study = make_study()
    network = initial_model(study, 3)
    path = tmp_path / "model.safetensors"
    digest = save_weights(path, network, {"study": study.digest})
    return path, network, study, digest


def test_a_model_comes_back_as_it_was_saved(saved):
    path, network, study, digest = saved
    found = load_saved(path, study)
    assert (to_vector(found.network) == to_vector(network)).all()
    assert not found.network.training
    assert (found.sha256, found.study) == (digest, study.digest)


def rewrite(path, study, change):
    weights = safetensors.torch.load_file(path)
    change(weights)
    path.write_bytes(safetensors.torch.save(weights, {"fedct": f'{{"study":"{study.digest}"}}'}))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda w: w.pop("fc.bias"), id="a weight is missing"),
        pytest.param(lambda w: w.update(extra=torch.zeros(1)), id="a weight is unknown"),
        pytest.param(lambda w: w.update({"fc.bias": torch.zeros(3)}), id="a weight has another shape"),
        pytest.param(lambda w: w.update({"fc.bias": torch.full((2,), torch.nan)}), id="a weight is no number"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(saved, change):
    path, _, study, _ = saved
    rewrite(path, study, change)
    with pytest.raises(StudyError, match=r"weight '(fc.bias|extra)'"):
        load_saved(path, study)


def test_a_model_of_another_study_is_refused(saved, make_study):
    with pytest.raises(StudyError, match="was trained by study"):
        load_saved(saved[0], make_study(size=48))


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"no model at all", b"\xff" * 64])
def test_what_is_no_safetensors_file_is_named(tmp_path, make_study, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(StudyError, match="no safetensors file"):
        load_saved(path, make_study())


def test_a_missing_file_is_named(tmp_path, make_study):
    with pytest.raises(UsageError, match="does not exist"):
        load_saved(tmp_path / "none.safetensors", make_study())
