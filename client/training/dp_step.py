"""One training step with patient-level differential privacy, through Opacus.

The rule (DP-SGD, Abadi et al. 2016, with the patient as the record):

1. the patients drawn contribute K views each; the K gradients are averaged *before* clipping;
2. each patient's gradient over all trainable parameters is clipped to norm C, in float32 at least;
3. the clipped gradients are summed over all micro-batches, and N(0, (sigma C)^2) is added once;
4. the sum is divided by the study's public batch size, never by the number drawn;
5. an empty draw takes the same path: noise alone;
6. a patient whose gradient is not finite contributes zero;
7. noise comes from a generator seeded with 256 bits of the operating system, which no experiment
   seed reaches. (torch's CPU generator takes 32 bits of its seed, so that whoever sees an update could
   try them all: it is not used.)

A ``PrivateStepper`` lives for one round: nothing accumulated can reach a later one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer import _check_processed_flag, _mark_as_processed
from torch import Tensor, nn

from client.training.sampler import secret_generator
from common.privacy.plan import PrivacyPlan

GRADIENT_MEMORY = 1 << 30  # bytes of per-example gradients held at once

# patients (each an array of example indices) -> inputs [p * K, ...], labels [p * K]
Batch = Callable[[Sequence[NDArray[np.intp]]], tuple[Tensor, Tensor]]


class _Optimizer(DPOptimizer):  # type: ignore[misc] # Opacus is untyped
    """Opacus's optimizer with noise from ``secret_generator``."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._secret = secret_generator()

    def add_noise(self) -> None:
        """Add N(0, (sigma C)^2) to each entry of the summed gradient, once."""
        std = self.noise_multiplier * self.max_grad_norm
        for p in self.params:
            _check_processed_flag(p.summed_grad)
            noise = torch.from_numpy(self._secret.standard_normal(p.numel(), dtype=np.float32))
            p.grad = (p.summed_grad + std * noise.view_as(p).to(p.summed_grad)).view_as(p)
            _mark_as_processed(p.summed_grad)


class PrivateStepper:
    """Takes private steps on ``model`` during one round.

    ``views``: K. ``batch`` builds the inputs of some patients, K rows for each in turn.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, plan: PrivacyPlan, views: int, batch: Batch
    ) -> None:
        self._views, self._batch = views, batch
        self._module = GradSampleModule(model, loss_reduction="sum")
        self._optimizer = _Optimizer(
            optimizer,
            noise_multiplier=plan.sigma,
            max_grad_norm=plan.clip,
            expected_batch_size=plan.denominator,
            loss_reduction="mean",
        )
        size = sum(p.numel() for p in self._optimizer.params) * 4
        self._micro = max(1, GRADIENT_MEMORY // size // views)

    def step(self, drawn: Sequence[NDArray[np.intp]]) -> None:
        """One noised step on the patients drawn (possibly none)."""
        self._forget()
        starts = range(0, max(1, len(drawn)), self._micro)
        for start in starts:
            self._optimizer.signal_skip_step(do_skip=start != starts[-1])
            self._per_patient_gradients(drawn[start : start + self._micro])
            self._optimizer.step()
            self._optimizer.zero_grad()

    def close(self) -> None:
        """Take Opacus's hooks off the model."""
        self._module.to_standard_module()

    def _forget(self) -> None:
        """Drop what an aborted step left: Opacus keeps ``summed_grad`` after a skipped micro-batch."""
        self._optimizer._step_skip_queue.clear()  # noqa: SLF001 - no public way to take a signal back
        self._optimizer._is_last_step_skipped = False  # noqa: SLF001
        self._optimizer.zero_grad()

    def _per_patient_gradients(self, drawn: Sequence[NDArray[np.intp]]) -> None:
        """Leave each patient's mean gradient in ``grad_sample`` [p, ...], zero where not finite."""
        inputs, labels = self._batch(drawn)
        loss = F.cross_entropy(self._module(inputs), labels, reduction="sum")
        with warnings.catch_warnings():  # the first layer's input needs no gradient, and torch says so each time
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            torch.autograd.backward(loss)
        parameters = self._optimizer.params
        finite = torch.ones(len(drawn), dtype=torch.bool)
        for p in parameters:
            precise = p.grad_sample.to(torch.promote_types(p.dtype, torch.float32))
            p.grad_sample = precise.reshape(len(drawn), self._views, *p.shape).mean(dim=1)
            finite &= p.grad_sample.isfinite().flatten(1).all(dim=1) if len(drawn) else finite
        if not finite.all():
            for p in parameters:
                p.grad_sample[~finite] = 0.0
