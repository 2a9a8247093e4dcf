"""Each patient's clipped gradient, summed, from one backward pass: mixed ghost norm with book-keeping.

``loss.backward()`` leaves, for each trainable layer, the patients' squared gradient norms and what their
clipped sum needs (activations and output gradients, or the gradients themselves where these are small).
When all layers have been passed the clip factors are known, and each layer's sum is one product. No
gradient of a patient over all parameters ever exists, and there is no second pass (Bu et al. 2022, 2023;
``ghost_cost`` holds the rule by which a layer's way is chosen).

It fails closed: a trainable parameter outside ``SUPPORTED``, one that two layers share, a layer used
twice or not at all, a gradient that came by another way, and norms over a batch are all refused by name.
What can't be seen from here is that the network treats the rows of a batch on their own, or where it pools, each
patient's rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from client.training.ghost_conv import GhostConv
from client.training.ghost_layers import GhostLayer, GhostLinear, GhostNorm, Tape
from client.training.ghost_records import Weights
from client.training.ghost_standardised import GhostStandardisedConv
from common.errors import UsageError
from common.models.standardised import StandardisedConv2d

SUPPORTED: dict[type[nn.Module], type[GhostLayer]] = {
    nn.Conv2d: GhostConv,
    StandardisedConv2d: GhostStandardisedConv,
    nn.Linear: GhostLinear,
    nn.GroupNorm: GhostNorm,
}
CLIP_SLACK = 1e-6  # as in Opacus: the factor is C / (norm + 1e-6), at most 1

Loss = Callable[[Tensor, Tensor], Tensor]


class GhostGradients:
    """Clipped sums of ``model``'s gradients; the model itself is left as it was after each call.

    ``pools``: the model takes [K, P, ...], the views of P patients, and gives P rows (``common.models.pooling``).
    Raises UsageError, naming the layer, when a trainable parameter can't be clipped.
    """

    def __init__(self, model: nn.Module, *, pools: bool = False) -> None:
        self._model, self._pools = model, pools
        self._layers = trainable_layers(model)
        self._rooms: dict[str, Tensor] = {}
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def clipped_sum(self, inputs: Tensor, labels: Tensor, views: int, clip: float, loss: Loss) -> None:
        """Leave the sum over patients of their clipped gradients in ``.grad`` of each trainable parameter.

        ``inputs`` [P * K, ...] and ``labels`` [P * K]: K = ``views`` rows for each patient in turn, whose
        gradients are averaged before clipping; both may be overwritten. ``loss`` sums over the rows. A model that
        pools makes one row of a patient, whose label is that of its first view.
        Without any patient a row of zeros takes their place and weighs nothing, so that the same code runs.
        A patient whose gradient is not finite counts as zero.
        """
        present = len(inputs) > 0
        if not present:
            inputs, labels = inputs.new_zeros(views, *inputs.shape[1:]), labels.new_zeros(views, *labels.shape[1:])
        for parameter in self.parameters:
            parameter.grad = None
        patients = len(inputs) // views
        inputs, labels = (by_view(rows, views) for rows in (inputs, labels))
        tape = Tape(views, patients, self._rooms, self._pools)
        with self._recording(tape):
            if self._pools:
                total = loss(self._model(inputs.view(views, patients, *inputs.shape[1:])), labels[:patients])
            else:
                total = loss(self._model(inputs), labels) / views
            torch.autograd.backward(total)
        self._check(tape)
        records = [tape.records.pop(name) for name in reversed(self._layers)]
        weights = clip_weights(torch.stack([r.squares for r in records]).sum(0), clip, present=present)
        while records:  # one at a time, so that each layer's memory is free for the next one's sum
            for parameter, total in records.pop().clipped_sum(weights):
                parameter.grad = total.view_as(parameter).to(parameter.dtype).contiguous()

    @contextmanager
    def _recording(self, tape: Tape) -> Iterator[None]:
        try:
            for name, module in self._layers.items():
                module.__dict__["forward"] = SUPPORTED[type(module)](name, module, tape)
            yield
        finally:
            for module in self._layers.values():
                module.__dict__.pop("forward", None)

    def _check(self, tape: Tape) -> None:
        missed = [name for name in self._layers if name not in tape.records]
        if missed:
            raise UsageError(
                f"layer '{missed[0]}' is trained but had no part in the loss", "Freeze it, or use it in forward"
            )
        for name, parameter in self._model.named_parameters():
            if parameter.grad is not None and parameter.requires_grad:
                raise UsageError(
                    f"parameter '{name}' reached the loss outside its layer: that part can't be clipped",
                    "Use it through its own layer only",
                )


def by_view(rows: Tensor, views: int) -> Tensor:
    """[P * K, ...] as [K * P, ...]: with views outermost, all layers see the patients side by side."""
    if views == 1:
        return rows
    return rows.view(-1, views, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


def clip_weights(squares: Tensor, clip: float, *, present: bool) -> Weights:
    """What multiplies each patient, from squared norms [P] over all parameters."""
    broken = ~squares.isfinite()
    factors = (clip / (squares.sqrt() + CLIP_SLACK)).clamp(max=1.0).masked_fill(broken, 0.0)
    return Weights(factors * float(present), broken.nonzero()[:, 0])


def trainable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold trainable parameters, by name. UsageError where one is not supported."""
    layers: dict[str, nn.Module] = {}
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, _NormBase):
            raise UsageError(
                f"layer '{name}' is a {type(module).__name__}: it may mix the patients of a batch", "Use GroupNorm"
            )
        trained = {key: p for key, p in module.named_parameters(recurse=False) if p.requires_grad}
        for key, parameter in trained.items():
            if id(parameter) in owners:
                raise UsageError(
                    f"parameter '{key}' of layer '{name}' belongs to layer '{owners[id(parameter)]}' too",
                    "Give each layer parameters of its own",
                )
            owners[id(parameter)] = name
        if trained:
            layers[name] = _supported(name, module, set(trained))
    return layers


def _supported(name: str, module: nn.Module, trained: set[str]) -> nn.Module:
    kinds = ", ".join(kind.__name__ for kind in SUPPORTED)
    remedy = f"Use {kinds}, or freeze the layer"
    if type(module) not in SUPPORTED or not trained <= {"weight", "bias"}:
        raise UsageError(f"layer '{name}' is a {type(module).__name__} that can't be clipped per patient", remedy)
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        raise UsageError(
            f"layer '{name}' has padding {module.padding!r} of mode '{module.padding_mode}'; expected numbers and 'zeros'",
            remedy,
        )
    return module
