"""Weights as one flat vector, and as safetensors on disk: all of a network's, or those that a study trains.

What travels is in ``common.models.parts``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn
from torchvision.models import get_model_weights

from common.errors import StudyError
from common.files import write_atomic
from common.models import parts
from common.models.metadata import weights_digest
from common.models.parts import Vector
from common.models.resnet import CONSTANTS, HEAD, Network, build_model, state
from common.study import Study, canonical_json


def to_vector(model: nn.Module, *, trainable_only: bool = False) -> Vector:
    """The parameters as one float32 vector, a copy."""
    return parts.read(_selected(model, trainable_only))


def load_vector(model: nn.Module, vector: Vector, *, trainable_only: bool = False) -> None:
    """Write a vector made by ``to_vector`` into the parameters. ValueError when the length differs."""
    parts.write(_selected(model, trainable_only), vector)


def _selected(model: nn.Module, trainable_only: bool) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad or not trainable_only]


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> str:
    """Write safetensors atomically; returns the file's SHA-256, which the weights and metadata fix.

    ``metadata`` goes in as canonical JSON under one key, since the format orders its keys at random.
    """
    tensors = {k: v.contiguous() for k, v in state(model).items()}
    data = safetensors.torch.save(tensors, {"fedct": canonical_json(metadata)})
    write_atomic(path, data, mode=0o644)
    return hashlib.sha256(data).hexdigest()


def digest_of(model: nn.Module) -> str:
    """``common.models.metadata.weights_digest`` of all weights."""
    return weights_digest({name: value.numpy() for name, value in state(model).items()})


def initial_model(study: Study, seed: int, weights: Path | None = None) -> Network:
    """The study's network with its initial weights; only the coordinator calls this.

    Random weights are drawn from ``seed``, and so is the head unless the file's fits. ``weights``: the
    file that ``model.initial`` names, by default that path itself.
    Raises StudyError when the weights can't be had or don't fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(study)
    if study.model.initial == "imagenet":
        _load_imagenet(model, study)
    elif study.model.initial_is_file:
        _load_file(model, study, weights or Path(study.model.initial))
    return model


def _load_imagenet(model: nn.Module, study: Study) -> None:
    """Convolutions from torchvision; norms start fresh, since GroupNorm has other statistics."""
    try:
        source = get_model_weights(study.model.name)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise StudyError(
            f"model.initial = 'imagenet': torchvision's weights for {study.model.name} can't be downloaded ({error})",
            "Connect to the network once, or give model.initial the path of a safetensors file",
        ) from None
    _copy(model, {k: v for k, v in source.items() if v.ndim == 4}, "imagenet")


def _load_file(model: nn.Module, study: Study, path: Path) -> None:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StudyError(
            f"model.initial = '{path}' can't be read ({error.strerror})", "Give a safetensors file"
        ) from None
    digest = hashlib.sha256(data).hexdigest()
    if study.model.initial_sha256 and digest != study.model.initial_sha256:
        raise StudyError(
            f"model.initial = '{path}' has SHA-256 {digest}; the study expects {study.model.initial_sha256}"
        )
    try:
        source = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise StudyError(f"model.initial = '{path}' is not a safetensors file ({error})") from None
    _copy(model, source, str(path))


def _copy(model: nn.Module, source: dict[str, torch.Tensor], where: str) -> None:
    """Copy what fits by name; the head may differ in shape, anything else must not."""
    for name in source:
        if name.startswith(CONSTANTS) and name not in state(model):
            raise StudyError(
                f"model.initial = '{where}': {name} is no constant of this release; expected {CONSTANTS}centre and "
                f"{CONSTANTS}whiten",
                "Make the weights anew with 'fedct-coordinator pretrain'",
            )
    taken = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = source.get(name)
            if value is None or (name.startswith(HEAD) and value.shape != parameter.shape):
                continue
            if value.shape != parameter.shape:
                raise StudyError(
                    f"model.initial = '{where}': {name} has shape {tuple(value.shape)}, expected {tuple(parameter.shape)}",
                    "Use weights of the same network and number of input channels",
                )
            parameter.copy_(value)
            taken += 1
    if taken == 0:
        raise StudyError(
            f"model.initial = '{where}' holds no weights of this network", "Use torchvision's parameter names"
        )
