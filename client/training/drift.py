"""What FedProx and SCAFFOLD add to each gradient, so that a site does not drift to its own optimum.

FedProx (Li et al. 2020): mu * (w - w0), a pull to the received weights w0. SCAFFOLD (Karimireddy et al. 2020): c - c_i,
a constant of the round that came down with the model.

Under differential privacy both are added to the gradient *after* it was clipped, summed and noised: a hook before the
step of the plain optimizer, which runs when the private one has released the noised gradient. They are functions of
what came down, and of the present weights, which are a function of that and of gradients already released. So no
patient changes them but through what is paid for, and they cost no privacy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.models.parts import Vector


def correct(
    optimizer: torch.optim.Optimizer, weights: Sequence[nn.Parameter], mu: float, correction: Vector | None
) -> None:
    """Let each step of ``optimizer`` pull ``weights`` back to where they are now, and add ``correction`` to their gradients.

    ValueError when the correction's length is not that of the weights, or it is not finite.
    """
    constants = _split(correction, weights) if correction is not None else None
    start = [p.detach().clone() for p in weights] if mu else None

    def add(*_: Any) -> None:
        with torch.no_grad():
            for index, weight in enumerate(weights):
                if weight.grad is None:
                    raise RuntimeError("a shared weight has no gradient before the step")
                if start:
                    weight.grad.add_(weight.detach() - start[index], alpha=mu)
                if constants:
                    weight.grad.add_(constants[index])

    if start or constants:
        optimizer.register_step_pre_hook(add)


def _split(vector: Vector, weights: Sequence[nn.Parameter]) -> list[Tensor]:
    total = sum(p.numel() for p in weights)
    flat = torch.from_numpy(vector.copy())
    if flat.shape != (total,) or not bool(torch.isfinite(flat).all()):
        raise ValueError(f"correction of shape {tuple(flat.shape)}; expected ({total},), finite")
    return [part.view_as(p) for part, p in zip(torch.split(flat, [p.numel() for p in weights]), weights, strict=True)]
