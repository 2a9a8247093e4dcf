import pytest
import torch
from safetensors.torch import load_file

from common.errors import DataError
from common.models.weights import initial_model
from common.study import parse_study
from server.pretraining import train
from server.pretraining.train import PATCH, pretrain, whitening


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(train, "BATCH", 4)
    monkeypatch.setattr(train, "MEASURED", 16)
    monkeypatch.setattr(train, "SPREAD", 16)
    monkeypatch.setattr(train, "_KEEP", 2)


@pytest.fixture
def study():
    return study_of("none")


def study_of(initial, trainable="head", windows=1):
    return parse_study(
        {
            "format": 1,
            "name": "test",
            "task": {"classes": ["a", "b", "c"]},
            "input": {"windows": [{"low": -200, "high": 800}] * windows, "spacing_mm": 2.0, "size": 32},
            "model": {"initial": initial, "trainable": trainable},
            "training": {"learning_rate": 0.1, "local_steps": 1, "batch_patients": 1},
            "privacy": {"unit": "off"},
            "federation": {"rounds": 1},
        }
    )


def silent(_done, _total, _note):
    pass


class BreakError(Exception):
    pass


def stop_after(images):
    def progress(done, _total, _note):
        if done >= images:
            raise BreakError

    return progress


def test_the_weights_start_a_study(tmp_path, study):
    out = tmp_path / "start.safetensors"
    digest = pretrain(study, out, images=8, seed=0, progress=silent)
    model = initial_model(study_of(str(out)), 0)
    assert torch.equal(model.conv1.weight, load_file(out)["conv1.weight"])
    assert len(digest) == 64
    assert not any(name.startswith("fc.") for name in load_file(out))
    assert not list(tmp_path.glob("*.partial"))


def test_features_of_scenes_are_centred_and_their_mean_square_is_below_one(tmp_path, study):
    out = tmp_path / "start.safetensors"
    pretrain(study, out, images=8, seed=0, progress=silent)
    model = initial_model(study_of(str(out)), 0).eval()
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        features = torch.cat([model(train._batch(study, 4, 32, 0, train._SIZED + n)[0]) for n in range(4)])
    assert features.mean(0).abs().max() < 1e-3
    assert 0.5 * 15 / 512 < features.square().sum(1).mean() < 16 / 512  # 16 scenes span 15 of 512 directions


def test_whitened_features_vary_alike_in_every_direction():
    mixed = torch.randn(20_000, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 5, 2, 1, 1, 0])
    mixed = mixed @ torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    found = torch.linalg.eigvalsh(6 * (mixed.double() @ whitening(mixed.double())).T.cov())
    assert found[1:].min() > 0.3  # the smallest of 1 beside the added share of a mean of 19
    assert found.max() < 1
    assert found[0] < 1e-6  # what never varies is not blown up


def test_centre_and_whitening_are_never_trained(study):
    for trainable in ("all", "norm+head", "head"):
        model = initial_model(study_of("none", trainable), 0)
        assert not model.avgpool.centre.requires_grad
        assert not model.avgpool.whiten.requires_grad


def test_a_run_that_was_broken_off_ends_as_one_that_was_not(tmp_path, study):
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    pretrain(study, whole, images=24, seed=3, progress=silent)
    with pytest.raises(BreakError):
        pretrain(study, broken, images=24, seed=3, progress=stop_after(20))
    assert not broken.exists()
    seen = []
    pretrain(study, broken, images=24, seed=3, progress=lambda done, _total, _note: seen.append(done))
    assert seen[0] == 20  # steps 1 to 4 of 6 were kept
    one, two = load_file(whole), load_file(broken)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"rubbish"), lambda path: path.write_bytes(b"")])
def test_a_damaged_partial_file_makes_it_begin_anew(tmp_path, study, spoil):
    out = tmp_path / "start.safetensors"
    spoil(tmp_path / "start.safetensors.partial")
    seen = []
    pretrain(study, out, images=8, seed=0, progress=lambda done, _total, _note: seen.append(done))
    assert seen == [4, 8]


def test_what_was_begun_with_another_seed_is_not_gone_on_with(tmp_path, study):
    out = tmp_path / "start.safetensors"
    with pytest.raises(BreakError):
        pretrain(study, out, images=24, seed=3, progress=stop_after(20))
    seen = []
    pretrain(study, out, images=24, seed=4, progress=lambda done, _total, _note: seen.append(done))
    assert seen[0] == 4


def test_each_window_has_a_contrast_of_its_own(study):
    inputs, _ = train._batch(study_of("none", windows=2), 8, PATCH, 0, 1)
    assert inputs.shape == (8, 6, PATCH, PATCH)
    assert not torch.equal(inputs[:, :3], inputs[:, 3:])


def test_a_folder_that_does_not_exist_is_told_before_the_work(tmp_path, study):
    with pytest.raises(DataError, match="does not exist"):
        pretrain(study, tmp_path / "none" / "start.safetensors", images=8, seed=0, progress=silent)


@pytest.mark.slow
def test_its_error_falls_as_it_learns(tmp_path, study, monkeypatch):
    monkeypatch.setattr(train, "BATCH", 16)
    monkeypatch.setattr(train, "MEASURED", 32)
    monkeypatch.setattr(train, "SPREAD", 32)
    monkeypatch.setattr(train, "_KEEP", 1000)
    notes = []
    pretrain(
        study,
        tmp_path / "start.safetensors",
        images=60 * 16,
        seed=0,
        progress=lambda _done, _total, note: notes.append(float(note.split()[-1])),
    )
    assert notes[-1] < 0.9 * notes[0]
