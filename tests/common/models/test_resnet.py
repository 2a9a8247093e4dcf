import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet34, resnet50

from common.models.resnet import PublicPool, build_model
from common.study import parse_study


def study_of(name="resnet18", trainable="all", windows=1):
    return parse_study(
        {
            "format": 1,
            "name": "test",
            "task": {"classes": ["a", "b", "c"]},
            "input": {"windows": [{"low": -200, "high": 800}] * windows, "spacing_mm": 2.0, "size": 64},
            "model": {"name": name, "trainable": trainable},
            "training": {"learning_rate": 0.1, "local_steps": 1, "batch_patients": 1},
            "privacy": {"unit": "off"},
            "federation": {"rounds": 1},
        }
    )


@pytest.mark.parametrize(
    ("name", "reference"), [("resnet18", resnet18), ("resnet34", resnet34), ("resnet50", resnet50)]
)
def test_names_and_shapes_are_torchvisions_but_for_the_constants_of_the_features(name, reference):
    ours = {k: v.shape for k, v in build_model(study_of(name), device="meta").named_parameters()}
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in reference(num_classes=3).named_parameters()}
    width = theirs["fc.weight"][1]
    assert ours == theirs | {"avgpool.centre": torch.Size([width]), "avgpool.whiten": torch.Size([width, width])}


def test_without_pretraining_the_constants_of_the_features_change_nothing():
    maps = torch.randn(4, 16, 3, 3)
    assert torch.equal(PublicPool(16)(maps), maps.mean((2, 3)))


def test_the_plain_network_is_resnet18_without_its_shortcuts():
    plain = {k: v.shape for k, v in build_model(study_of("plain18"), device="meta").named_parameters()}
    whole = {k: v.shape for k, v in build_model(study_of(), device="meta").named_parameters()}
    assert plain == {k: v for k, v in whole.items() if "downsample" not in k}
    model = build_model(study_of("plain18"))
    block = model.layer1[0]
    torch.nn.init.zeros_(block.conv2.weight)
    assert not block(torch.rand(1, 64, 8, 8)).any()  # nothing goes around the convolutions
    sum(model(torch.rand(2, 3, 64, 64)).flatten()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_output_is_one_logit_a_class_for_any_number_of_windows():
    model = build_model(study_of(windows=2))
    assert model(torch.zeros(2, 6, 64, 64)).shape == (2, 3)


def test_no_layer_mixes_examples_or_works_in_place():
    model = build_model(study_of("resnet50"), device="meta")
    kinds = {type(m) for m in model.modules()}
    assert nn.BatchNorm2d not in kinds
    assert not any(getattr(m, "inplace", False) for m in model.modules())


def test_an_examples_output_does_not_depend_on_its_neighbours():
    model = build_model(study_of()).eval()
    batch = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(batch)[:1], model(batch[:1]), atol=1e-5)


@pytest.mark.parametrize(("trainable", "parts"), [("head", {"fc"}), ("norm+head", {"fc", "norm"})])
def test_only_the_chosen_part_is_trained(trainable, parts):
    model = build_model(study_of(trainable=trainable), device="meta")
    norms = {f"{n}.{p}" for n, m in model.named_modules() if isinstance(m, nn.GroupNorm) for p in ("weight", "bias")}
    for name, parameter in model.named_parameters():
        part = "fc" if name.startswith("fc.") else "norm" if name in norms else "convolution"
        assert parameter.requires_grad == (part in parts), name
