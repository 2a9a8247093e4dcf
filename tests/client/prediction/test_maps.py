from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from client.prediction.maps import cam_layer, grad_cam, integrated_gradients, shares
from client.training.views import to_input
from common.models.resnet import build_model


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 3, 64, 64), np.uint8)


def network(make_study, seed, size=64):
    torch.manual_seed(seed)
    return build_model(make_study(size=size)).eval()


TARGETS = np.array([0, 1, 1])


def test_grad_cam_is_the_formula_of_its_paper_in_the_form_of_hirescam(make_study, pixels):
    model = network(make_study, 0)
    kept = []
    handle = cam_layer(model, 64).register_forward_hook(lambda _m, _i, out: kept.append(out))
    logits = model(to_input(pixels))
    handle.remove()
    gradient = torch.autograd.grad(logits[torch.arange(3), torch.from_numpy(TARGETS)].sum(), kept[0])[0]
    coarse = F.relu((kept[0] * gradient).sum(dim=1, keepdim=True))
    expected = F.interpolate(coarse, (64, 64), mode="bilinear", align_corners=False)[:, 0].detach().numpy()
    assert np.allclose(grad_cam(model, pixels, TARGETS), expected, atol=1e-6)


def test_integrated_gradients_add_up_to_the_change_of_the_logit(make_study, pixels):
    model = network(make_study, 0)
    with torch.inference_mode():
        change = model(to_input(pixels)) - model(to_input(np.zeros_like(pixels)))
    expected = change[torch.arange(3), torch.from_numpy(TARGETS)].numpy()
    found = integrated_gradients(model, pixels, TARGETS, steps=200).sum(axis=(1, 2))
    assert np.allclose(found, expected, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("method", [grad_cam, integrated_gradients])
def test_other_weights_see_other_things(make_study, pixels, method):
    """The sanity check of Adebayo et al. (NeurIPS 2018): a map that outlives the weights shows the image alone."""
    one, again, other = (method(network(make_study, seed), pixels, TARGETS) for seed in (0, 0, 1))
    assert np.allclose(one, again)
    correlation = [abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) for a, b in zip(one, other, strict=True)]
    assert max(correlation) < 0.6


@pytest.mark.parametrize("method", [grad_cam, integrated_gradients])
def test_another_class_has_another_map(make_study, pixels, method):
    model = network(make_study, 0)
    assert not np.allclose(method(model, pixels, TARGETS), method(model, pixels, 1 - TARGETS))


def test_a_batch_of_many_is_explained_like_each_alone(make_study):
    many = np.random.default_rng(1).integers(0, 256, (35, 3, 32, 32), np.uint8)
    model = network(make_study, 0, 32)
    together = grad_cam(model, many, np.zeros(35, np.intp))
    alone = np.concatenate([grad_cam(model, many[i : i + 1], np.zeros(1, np.intp)) for i in (0, 33, 34)])
    assert np.allclose(together[[0, 33, 34]], alone, atol=1e-5)


@pytest.mark.parametrize(("size", "layer"), [(32, "layer1"), (64, "layer2"), (96, "layer3"), (224, "layer4")])
def test_maps_are_as_deep_as_their_grid_allows(make_study, size, layer):
    model = network(make_study, 0, size)
    assert cam_layer(model, size) is getattr(model, layer)


def test_shares_end_at_one_and_hide_what_speaks_against():
    assert shares(np.array([[[-4.0, 1.0, 2.0]]], np.float32)).tolist() == [[[0.0, 0.5, 1.0]]]
    assert not shares(np.array([[[-4.0, -1.0]]], np.float32)).any()
