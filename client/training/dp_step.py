"""One training step with patient-level differential privacy.

The rule (DP-SGD, Abadi et al. 2016, with the patient as the record):

1. the patients drawn contribute K views each; the K gradients are averaged *before* clipping, or a network that
   pools views makes one loss, and so one gradient, of all K;
2. each patient's gradient over all trainable parameters is clipped to norm C, in float32 at least;
3. the clipped gradients are summed over all micro-batches, and N(0, (sigma C)^2) is added once;
4. the sum is divided by the study's public batch size, never by the number drawn;
5. an empty draw takes the same path: noise alone;
6. a patient whose gradient is not finite contributes zero;
7. noise comes from a keystream of the operating system's randomness, which no experiment seed reaches.

``GhostGradients`` does 1 and 2; summing, scaling and the order of things are those of Opacus's optimizer
for clipped gradients. A ``PrivateStepper`` lives for one round: nothing accumulated can reach a later one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import Tensor, nn

from client.training.ghost import GhostGradients
from client.training.randomness import Keystream, add_noise
from common.errors import UsageError
from common.privacy.plan import PrivacyPlan

ACTIVATION_MEMORY = 2 << 30  # bytes that one micro-batch may keep for its backward pass, about

# patients (each an array of example indices) -> inputs [p * K, ...], labels [p * K]; no patients: [0, ...]
Batch = Callable[[Sequence[NDArray[np.intp]]], tuple[Tensor, Tensor]]


class _Optimizer(DPOptimizerFastGradientClipping):  # type: ignore[misc] # Opacus is untyped
    """Opacus's optimizer over clipped sums in ``.grad``, with noise from a secret keystream."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._secret = Keystream.secret()

    def accumulate(self) -> None:
        """Add ``.grad`` to ``summed_grad``; the first is taken as it is, without a copy."""
        for p in self.params:
            p.summed_grad = p.grad if p.summed_grad is None else p.summed_grad.add_(p.grad)
            p.grad = None

    def add_noise(self) -> None:
        """Add N(0, (sigma C)^2) to each entry of the summed gradient, once, and divide by the public batch size.

        Both in one pass over the sums, in their own memory; so Opacus is told to scale nothing itself.
        """
        sums = [p.summed_grad for p in self.params]
        for total in sums:
            _check_processed_flag(total)
        add_noise(sums, self.noise_multiplier * self.max_grad_norm, self._secret, self.expected_batch_size)
        for p in self.params:
            p.grad = p.summed_grad
            _mark_as_processed(p.summed_grad)


class PrivateStepper:
    """Takes private steps on ``model`` during one round.

    ``views``: K. ``batch`` builds the inputs of some patients, K rows for each in turn; the step may
    overwrite them. ``pools``: the model takes the views of a patient together, and gives one answer.
    Raises UsageError when a trainable parameter can't be clipped per patient, or is not the optimizer's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: PrivacyPlan,
        views: int,
        batch: Batch,
        *,
        pools: bool = False,
    ) -> None:
        self._views, self._batch, self._clip = views, batch, plan.clip
        self._ghost = GhostGradients(model, pools=pools)
        self._optimizer = _Optimizer(
            optimizer,
            noise_multiplier=plan.sigma,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.denominator,
            loss_reduction="sum",  # the step divides with the noise
        )
        if {id(p) for p in self._optimizer.params} != {id(p) for p in self._ghost.parameters}:
            raise UsageError("the optimizer's parameters are not the model's trainable ones; expected the same")
        self._micro = max(1, ACTIVATION_MEMORY // example_bytes(model, batch([])[0]) // views)

    def step(self, drawn: Sequence[NDArray[np.intp]]) -> None:
        """One noised step on the patients drawn (possibly none)."""
        self._forget()
        starts = range(0, max(1, len(drawn)), self._micro)
        for start in starts:
            inputs, labels = self._batch(drawn[start : start + self._micro])
            self._ghost.clipped_sum(inputs, labels, self._views, self._clip, _summed_cross_entropy)
            self._optimizer.signal_skip_step(do_skip=start != starts[-1])
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Leave no gradient on the model."""
        self._forget()

    def _forget(self) -> None:
        """Drop what an aborted step left: Opacus keeps ``summed_grad`` after a skipped micro-batch."""
        self._optimizer._step_skip_queue.clear()  # noqa: SLF001 - no public way to take a signal back
        self._optimizer._is_last_step_skipped = False  # noqa: SLF001
        self._optimizer.zero_grad(set_to_none=True)


def example_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes that a forward pass keeps of one example [1, *inputs.shape[1:]]; nothing is computed."""
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()  # noqa: SLF001 - its identity
        return tensor

    weights = {name: p.detach().to("meta").requires_grad_(p.requires_grad) for name, p in model.named_parameters()}
    owned = {w.untyped_storage()._cdata for w in weights.values()}  # noqa: SLF001
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = torch.func.functional_call(model, weights, inputs.new_empty(1, *inputs.shape[1:], device="meta"))
    del output
    return max(1, sum(size for identity, size in kept.items() if identity not in owned))


def _summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")
