import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

from common.errors import StudyError
from common.models.metadata import saved_weights_digest
from common.models.resnet import empty_model
from common.models.weights import digest_of, initial_model, load_vector, save_weights, to_vector
from common.study import parse_study


def study_of(**model):
    return parse_study(
        {
            "format": 1,
            "name": "test",
            "task": {"classes": ["a", "b", "c"]},
            "input": {"windows": [{"low": -200, "high": 800}], "spacing_mm": 2.0, "size": 64},
            "model": model,
            "training": {"learning_rate": 0.1, "local_steps": 1, "batch_patients": 1},
            "privacy": {"unit": "off"},
            "federation": {"rounds": 1},
        }
    )


def test_a_vector_carries_all_weights():
    study = study_of()
    model, copy = initial_model(study, 1), empty_model(study)
    load_vector(copy, to_vector(model))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), copy.parameters(), strict=True))


def test_a_network_and_its_file_have_the_same_digest_and_a_changed_weight_another(tmp_path):
    model = initial_model(study_of(), 1)
    first = digest_of(model)
    for metadata in ({"study": "a"}, {"study": "b"}):
        save_weights(tmp_path / "model", model, metadata)
        assert saved_weights_digest((tmp_path / "model").read_bytes()) == first
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert digest_of(model) != first
    with pytest.raises(ValueError, match="not a safetensors file"):
        saved_weights_digest(b"x" * 20)


def test_a_head_only_study_sends_only_the_head():
    model = initial_model(study_of(trainable="head"), 1)
    assert to_vector(model, trainable_only=True).size == 3 * 512 + 3


def test_a_vector_of_another_length_is_refused():
    model = initial_model(study_of(), 1)
    with pytest.raises(ValueError, match="expected"):
        load_vector(model, np.zeros(5, dtype=np.float32))


def test_the_seed_fixes_the_start_and_leaves_torchs_own_generator_alone():
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    one, two, other = (to_vector(initial_model(study_of(), seed)) for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_saved_weights_are_read_back_and_started_from(tmp_path):
    model = initial_model(study_of(), 1)
    digest = save_weights(tmp_path / "w.safetensors", model, {"study": "x"})
    assert load_file(tmp_path / "w.safetensors").keys() == dict(model.named_parameters()).keys()
    again = initial_model(study_of(initial="w.safetensors", initial_sha256=digest), 5, tmp_path / "w.safetensors")
    assert np.array_equal(to_vector(again), to_vector(model))


def test_the_same_weights_are_the_same_bytes_in_every_process(tmp_path):
    script = (
        "import sys; from pathlib import Path; import torch; from torch import nn;"
        "from common.models.weights import save_weights; torch.manual_seed(0);"
        "print(save_weights(Path(sys.argv[1]), nn.Linear(3, 2), {c: c for c in 'abcdef'}))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{i}")], capture_output=True, text=True, check=True
        )
        for i in range(3)
    ]
    assert len({run.stdout for run in runs}) == 1


def test_a_file_with_another_number_of_classes_keeps_a_fresh_head(tmp_path):
    other = initial_model(study_of(), 1)
    weights = {k: v.detach().clone() for k, v in other.named_parameters()}
    weights["fc.weight"], weights["fc.bias"] = torch.zeros(7, 512), torch.zeros(7)
    save_file(weights, tmp_path / "w.safetensors")
    model = initial_model(study_of(initial="w.safetensors"), 5, tmp_path / "w.safetensors")
    assert torch.equal(model.conv1.weight, other.conv1.weight)
    assert model.fc.weight.shape == (3, 512)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "can't be read"),
        (lambda p: p.write_bytes(b"not weights"), "not a safetensors file"),
        (lambda p: save_file({"conv1.weight": torch.zeros(64, 1, 7, 7)}, p), "conv1.weight has shape"),
        (lambda p: save_file({"other": torch.zeros(1)}, p), "no weights of this network"),
        (lambda p: save_file({"avgpool.scale": torch.ones(512, 1, 1)}, p), "avgpool.scale is no constant of this"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, write, message):
    if write:
        write(tmp_path / "w.safetensors")
    with pytest.raises(StudyError, match=message):
        initial_model(study_of(initial="w.safetensors"), 0, tmp_path / "w.safetensors")


def test_other_bytes_than_the_study_names_are_refused(tmp_path):
    save_weights(tmp_path / "w.safetensors", initial_model(study_of(), 1), {})
    with pytest.raises(StudyError, match="the study expects"):
        initial_model(study_of(initial="w.safetensors", initial_sha256="0" * 64), 0, tmp_path / "w.safetensors")


def test_imagenet_weights_bring_their_convolutions(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    reference = resnet18()
    torch.save(reference.state_dict(), folder / "resnet18-f37072fd.pth")
    model = initial_model(study_of(initial="imagenet"), 0)
    assert torch.equal(model.layer3[1].conv2.weight, reference.layer3[1].conv2.weight)
    assert torch.equal(model.bn1.weight, torch.ones(64))


def test_without_a_network_imagenet_weights_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(StudyError, match=r"can't be downloaded.*safetensors"):
        initial_model(study_of(initial="imagenet"), 0)
