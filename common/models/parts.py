"""The parts of a network: what goes round, what goes down once, and what stays at a site.

- *shared*: trained and not local; each message down has it, each update is its change;
- *base*: everything else. It does not change at the coordinator, so it goes down to a site once, named by its digest;
- *local*: of the base, what each site trains for itself; the base holds its initial values.

A part is a list of parameters in the network's order, and travels as one float32 vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from common.models.resnet import HEAD
from common.study import Study

Vector = NDArray[np.float32]


def local(model: nn.Module, study: Study) -> list[nn.Parameter]:
    """The weights that each site trains and keeps."""
    if study.model.local == "norm":
        return [p for m in model.modules() if isinstance(m, nn.GroupNorm) for p in m.parameters()]
    if study.model.local == "head":
        return [p for name, p in model.named_parameters() if name.startswith(HEAD)]
    return []


def shared(model: nn.Module, study: Study) -> list[nn.Parameter]:
    """The weights that go round."""
    own = {id(p) for p in local(model, study)}
    return [p for p in model.parameters() if p.requires_grad and id(p) not in own]


def base(model: nn.Module, study: Study) -> list[nn.Parameter]:
    """The weights that go down once."""
    moving = {id(p) for p in shared(model, study)}
    return [p for p in model.parameters() if id(p) not in moving]


def size(part: Sequence[nn.Parameter]) -> int:
    """How many weights a part has."""
    return sum(p.numel() for p in part)


def read(part: Sequence[nn.Parameter]) -> Vector:
    """A part as one float32 vector, a copy."""
    if not part:
        return np.zeros(0, dtype=np.float32)
    return torch.cat([p.detach().reshape(-1) for p in part]).to(torch.float32).numpy()


def write(part: Sequence[nn.Parameter], vector: Vector) -> None:
    """Write a vector made by ``read`` into the same part. ValueError when the length differs."""
    expected = size(part)
    if vector.shape != (expected,):
        raise ValueError(f"weights have shape {vector.shape}; expected ({expected},)")
    offset = 0
    with torch.no_grad():
        for parameter in part:
            values = np.array(vector[offset : offset + parameter.numel()], dtype=np.float32)
            parameter.copy_(torch.from_numpy(values).view_as(parameter))
            offset += parameter.numel()


def add(part: Sequence[nn.Parameter], step: Vector) -> bool:
    """Add a vector of the part's length to it, in place and without a copy; whether all weights are finite after it."""
    finite, offset = True, 0
    with torch.no_grad():
        for parameter in part:
            values = torch.from_numpy(step[offset : offset + parameter.numel()])
            parameter.add_(values.view_as(parameter))
            finite = finite and bool(torch.isfinite(parameter).all())
            offset += parameter.numel()
    return finite


def digest(vector: Vector) -> str:
    """SHA-256 over the little-endian float32 values, 64 hex digits."""
    return hashlib.sha256(np.ascontiguousarray(vector, dtype="<f4").data).hexdigest()
