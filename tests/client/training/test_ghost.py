import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from torch import nn

from client.training import ghost_conv, ghost_layers
from client.training.ghost import GhostGradients
from common.errors import UsageError
from common.models.standardised import StandardisedConv2d
from common.models.weights import initial_model

CLIP = 0.8


def summed(logits, labels):
    return F.cross_entropy(logits.flatten(1), labels, reduction="sum")


def hooks_oracle(model, inputs, labels, views, clip=CLIP, loss=summed):
    """Opacus ``hooks``: every example's gradient, views averaged, clipped, summed. By parameter's name.

    Averaged, clipped and summed in float64: over millions of entries its own float32 norms are off by 2e-5.
    Each sum comes with its scale: its length were the patients' gradients at right angles.
    """
    model = copy.deepcopy(model)
    module = GradSampleModule(model, loss_reduction="sum")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
        loss(module(inputs), labels).backward()
    patients = len(inputs) // views
    own = {n: p.grad_sample.double() for n, p in model.named_parameters() if p.requires_grad}
    own = {n: g.reshape(patients, views, *g.shape[1:]).mean(dim=1) for n, g in own.items()}
    norms = sum(g.flatten(1).square().sum(1) for g in own.values()).sqrt()
    factors = (clip / (norms + 1e-6)).clamp(max=1.0)
    weighed = {n: torch.einsum("n,n...->n...", factors, g) for n, g in own.items()}
    return {n: (g.sum(0), g.norm()) for n, g in weighed.items()}, norms


def ghost_sums(model, inputs, labels, views, clip=CLIP, loss=summed):
    ghost = GhostGradients(model)
    ghost.clipped_sum(inputs.clone(), labels.clone(), views, clip, loss)
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return found


def largest_error(found, expected):
    """Over parameters, relative to the scale: where patients cancel, the sum itself may be next to nothing."""
    assert found.keys() == expected.keys()
    return max(float((found[n].double() - total).norm() / scale) for n, (total, scale) in expected.items())


def small_net(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


LAYERS = {
    "3 x 3": lambda: nn.Conv2d(4, 8, 3, padding=1),
    "3 x 3 without bias": lambda: nn.Conv2d(4, 8, 3, bias=False),
    "stride": lambda: nn.Conv2d(4, 8, 3, stride=2, padding=1),
    "oblong": lambda: nn.Conv2d(4, 8, (3, 2), stride=(1, 2), padding=(2, 0)),
    "dilation": lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2),
    "groups": lambda: nn.Conv2d(4, 8, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "1 x 1": lambda: nn.Conv2d(4, 8, 1),
    "1 x 1 with stride": lambda: nn.Conv2d(4, 8, 1, stride=2),
    "1 x 1 in groups": lambda: nn.Conv2d(4, 8, 1, groups=2),
    "1 x 1 with padding": lambda: nn.Conv2d(4, 8, 1, padding=1),
    "standardised": lambda: StandardisedConv2d(4, 8, 3, padding=1),
    "standardised without bias": lambda: StandardisedConv2d(4, 8, 3, stride=2, bias=False),
    "standardised in groups": lambda: StandardisedConv2d(4, 8, 3, dilation=2, padding=2, groups=2),
    "standardised 1 x 1": lambda: StandardisedConv2d(4, 8, 1, stride=2),
    "group norm": lambda: nn.GroupNorm(2, 4),
    "linear over rows": lambda: nn.Linear(9, 5),
    "linear without bias": lambda: nn.Linear(9, 5, bias=False),
}


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("grams", [True, False, None], ids=["by Grams", "formed", "by cost"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_agrees_with_opacus_hooks(monkeypatch, layer, grams, views):
    if grams is not None:
        for module in (ghost_conv, ghost_layers):
            monkeypatch.setattr(module, "prefers_grams", lambda shape: grams)
    torch.manual_seed(2)
    inputs, labels = torch.randn(5 * views, 4, 11, 9, dtype=torch.float64), torch.arange(5 * views) % 3
    model = small_net(LAYERS[layer](), nn.Tanh()).double()
    model(inputs)
    _, norms = hooks_oracle(model, inputs, labels, views)
    clip = float(norms.median())  # so that some are clipped and some are not
    expected, _ = hooks_oracle(model, inputs, labels, views, clip)
    assert largest_error(ghost_sums(model, inputs, labels, views, clip), expected) < 1e-10
    low = {n: g.double() for n, g in ghost_sums(model.float(), inputs.float(), labels, views, clip).items()}
    assert largest_error(low, expected) < 1e-5


@pytest.mark.parametrize("plane", [4, 24])
@pytest.mark.parametrize("grams", [True, False])
def test_small_and_large_planes_agree_with_opacus_hooks(monkeypatch, plane, grams):
    """Each plane takes another kernel: unfolded, per patient, or as groups."""
    monkeypatch.setattr(ghost_conv, "prefers_grams", lambda shape: grams)
    torch.manual_seed(2)
    inputs, labels = torch.randn(2, 4, plane, plane, dtype=torch.float64), torch.arange(2)
    model = small_net(nn.Conv2d(4, 40, 3, padding=1)).double()
    model(inputs)
    expected, _ = hooks_oracle(model, inputs, labels, 1)
    assert largest_error(ghost_sums(model, inputs, labels, 1), expected) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "norm+head", "head"])
@pytest.mark.parametrize("name", ["plain18", "resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("views", [1, 3])
def test_every_resnet_agrees_with_opacus_hooks_in_float32(study_of, name, views, trainable):
    model = initial_model(study_of(model={"name": name, "trainable": trainable}), 0)
    torch.manual_seed(1)
    inputs, labels = torch.randn(2 * views, 3, 64, 64), torch.arange(2).repeat_interleave(views)
    expected, _ = hooks_oracle(model, inputs, labels, views)
    assert largest_error(ghost_sums(model, inputs, labels, views), expected) < 1e-5
    model, inputs = model.double(), inputs.double()
    expected, _ = hooks_oracle(model, inputs, labels, views)
    assert largest_error(ghost_sums(model, inputs, labels, views), expected) < 1e-10


@pytest.mark.parametrize("views", [1, 2])
def test_a_resnet_with_standardised_weights_agrees_with_opacus_hooks(study_of, views):
    model = initial_model(study_of(model={"norm": "group-ws"}), 0)
    assert {type(m) for m in model.modules() if isinstance(m, nn.Conv2d)} == {StandardisedConv2d}
    torch.manual_seed(1)
    inputs, labels = torch.randn(2 * views, 3, 32, 32), torch.arange(2).repeat_interleave(views)
    expected, _ = hooks_oracle(model, inputs, labels, views)
    assert largest_error(ghost_sums(model, inputs, labels, views), expected) < 1e-5


def test_no_patient_gives_zeros_by_the_same_path():
    model = small_net(nn.Conv2d(4, 8, 3), nn.GroupNorm(2, 8))
    model(torch.zeros(1, 4, 8, 8))
    found = ghost_sums(model, torch.zeros(0, 4, 8, 8), torch.zeros(0, dtype=torch.long), 2)
    assert set(found) == {n for n, _ in model.named_parameters()}
    assert all(g.eq(0).all() for g in found.values())


@pytest.mark.parametrize("grams", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_a_patient_without_a_finite_gradient_counts_as_zero(monkeypatch, grams, value):
    for module in (ghost_conv, ghost_layers):
        monkeypatch.setattr(module, "prefers_grams", lambda shape: grams)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 16, 3))
    inputs, labels = torch.randn(6, 4, 8, 8), torch.arange(6) % 3
    others = torch.tensor([0, 1, 4, 5])
    expected = ghost_sums(model, inputs[others], labels[others], 2)
    inputs[3] = value
    found = ghost_sums(model, inputs, labels, 2)
    if value != 1e30:  # a finite patient is clipped, not dropped
        assert largest_error(found, {n: (g.double(), g.norm()) for n, g in expected.items()}) < 1e-5
    assert all(g.isfinite().all() for g in found.values())


def test_layers_below_the_first_trained_one_keep_no_graph(study_of):
    model = initial_model(study_of(model={"trainable": "head"}), 0)
    seen = []
    model.avgpool.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    found = ghost_sums(model, torch.randn(2, 3, 32, 32), torch.arange(2), 1)
    assert set(found) == {"fc.weight", "fc.bias"}
    assert seen == [False]


def test_outputs_that_share_a_gradient_are_not_scaled_twice():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            return self.one(x) + self.two(x)

    torch.manual_seed(0)
    model, inputs, labels = Sum().double(), 5 * torch.randn(4, 6, dtype=torch.float64), torch.arange(4) % 3
    expected, norms = hooks_oracle(model, inputs, labels, 1)
    assert norms.max() > CLIP
    assert largest_error(ghost_sums(model, inputs, labels, 1), expected) < 1e-10


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 3))
    inputs, before = torch.randn(2, 4, 8, 8), [dict(vars(m)) for m in model.modules()]
    ghost_sums(model, inputs, torch.arange(2), 1)
    assert [dict(vars(m)) for m in model.modules()] == before
    model(inputs).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(self.inner(x))


class Outside(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x) @ self.inner.weight


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x * self.scale


class OwnLinear(nn.Linear):
    """A subclass may compute anything."""


def tied():
    one, two = nn.Linear(4, 4), nn.Linear(4, 4)
    two.weight = one.weight
    return nn.Sequential(one, two)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Twice, "layer 'inner' is used twice"),
        (Outside, "parameter 'inner.weight' reached the loss outside its layer"),
        (Unused, "layer 'idle' is trained but had no part"),
        (Bare, "layer '' is a Bare that can't be clipped"),
        (lambda: nn.Sequential(OwnLinear(4, 4)), "layer '0' is a OwnLinear"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "layer '1' is a LayerNorm"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)), "layer '1' is a BatchNorm1d"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding="same")), "layer '0' has padding 'same'"),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding_mode="circular")), "of mode 'circular'"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), "can't be clipped"),
        (tied, "parameter 'weight' of layer '1' belongs to layer '0' too"),
    ],
)
def test_what_cannot_be_clipped_is_refused_by_name(make, message):
    with pytest.raises(UsageError, match=message):
        ghost_sums(make(), torch.randn(3, 4), torch.arange(3), 1)


def test_a_frozen_layer_of_any_kind_is_let_through():
    model = nn.Sequential(nn.LayerNorm(4).requires_grad_(False), nn.Linear(4, 3))
    assert set(ghost_sums(model, torch.randn(3, 4), torch.arange(3), 1)) == {"1.weight", "1.bias"}
