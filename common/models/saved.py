"""Read a ``model.safetensors`` that a study wrote: only into the network of that study, only whole."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

from common.errors import StudyError, UsageError
from common.models.metadata import saved_study
from common.models.resnet import Network, empty_model
from common.study import Study

_REMEDY = "Give the model.safetensors and the study.toml of one and the same run"


@dataclass(frozen=True)
class SavedModel:
    """``network`` in evaluation mode, on the CPU; ``sha256`` of the file; ``study``: the digest that the file names."""

    network: Network
    sha256: str
    study: str


def load_saved(path: Path, study: Study) -> SavedModel:
    """The model in ``path``. Raises UsageError if there is no such file, StudyError unless it is one of ``study``."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"model file '{path}' does not exist", "Give the model.safetensors of a run") from None
    except OSError as error:
        raise UsageError(f"model file '{path}' can't be read ({error.strerror})", "Check its owner and mode") from None
    try:
        weights = safetensors.torch.load(data)
        digest = saved_study(data)
    except (safetensors.SafetensorError, ValueError) as error:
        raise StudyError(f"model file '{path}' is no safetensors file of a study ({error})", _REMEDY) from None
    if digest != study.digest:
        raise StudyError(
            f"model file '{path}' was trained by study {digest[:12]}; study '{study.name}' is {study.digest[:12]}",
            _REMEDY,
        )
    network = empty_model(study)
    expected = dict(network.named_parameters())
    wrong = next((name for name in sorted(expected.keys() ^ weights.keys())), None)
    if wrong is not None:
        raise StudyError(f"model file '{path}': weight '{wrong}' is not in both file and network", _REMEDY)
    with torch.no_grad():
        for name, parameter in expected.items():
            if weights[name].shape != parameter.shape or not torch.isfinite(weights[name]).all():
                raise StudyError(
                    f"model file '{path}': weight '{name}' has shape {tuple(weights[name].shape)}, expected finite "
                    f"values of {tuple(parameter.shape)}",
                    _REMEDY,
                )
            parameter.copy_(weights[name])
    return SavedModel(network.eval(), hashlib.sha256(data).hexdigest(), digest)
