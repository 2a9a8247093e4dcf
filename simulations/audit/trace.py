"""What a private step really did, recorded from outside while the production code runs.

A profiler of this thread sees every function of the step that is entered, and a hook of torch's optimizers sees
the sum before its noise and the gradient after it. Nothing of the step is replaced. If the code moves so that
nothing is seen, the trace is empty, and every check on it fails.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import client.training.dp_step as production
from client.training.randomness import KEY_BYTES, Keystream

_FOLDER = production.__file__.rpartition("dp_step")[0]
_STEP = "PrivateStepper.step"
_PER_PATIENT = ("views.py", "sampler.py", "randomness.py")  # what is done for each patient: as often as there are
_COUNTED = ("add_noise", "GhostGradients.clipped_sum")


@dataclass
class StepTrace:
    """One call of the private step.

    ``drawn``: example indices of each patient drawn. ``calls``: functions of the step in the order of entering,
    repeats of one dropped. ``noise_draws``: parameters that got noise. ``micro_batches``: backward passes.
    ``updates``: calls of the optimizer. ``total`` and ``release``: the sum before noise, and
    what the optimizer was given, flat float32 over all trained parameters.
    """

    drawn: list[tuple[int, ...]]
    calls: list[str] = field(default_factory=list)
    noise_draws: int = 0
    micro_batches: int = 0
    updates: int = 0
    total: Tensor | None = None
    release: Tensor | None = None

    @property
    def path(self) -> tuple[str, ...]:
        """What must be the same whoever is drawn."""
        return (*self.calls, f"{self.noise_draws} noises", f"{self.updates} updates")


@contextmanager
def traced() -> Iterator[list[StepTrace]]:
    """The private steps that are made in the body, in order."""
    steps: list[StepTrace] = []

    def watch(frame: FrameType, event: str, _argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_FOLDER):
            _enter(frame, steps)

    def update(optimizer: torch.optim.Optimizer, _arguments: Any, _settings: Any) -> None:
        if steps:
            _note_update(optimizer, steps[-1])

    handle = register_optimizer_step_pre_hook(update)
    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        yield steps
    finally:
        sys.setprofile(before)
        handle.remove()


def _enter(frame: FrameType, steps: list[StepTrace]) -> None:
    name, file = frame.f_code.co_qualname, frame.f_code.co_filename
    if name == _STEP:
        steps.append(StepTrace([tuple(int(i) for i in patient) for patient in frame.f_locals["drawn"]]))
    if not steps:
        return
    step = steps[-1]
    if name == _COUNTED[0]:
        totals = frame.f_locals["totals"]  # noise comes in place, so this is the last sight of the sums
        step.noise_draws += len(totals)
        step.total = torch.cat([total.detach().reshape(-1) for total in totals])
    step.micro_batches += name == _COUNTED[1]
    if not file.endswith(_PER_PATIENT) and (not step.calls or step.calls[-1] != name):
        step.calls.append(name)


def _note_update(optimizer: torch.optim.Optimizer, step: StepTrace) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    step.updates += 1
    step.release = torch.cat([p.grad.detach().reshape(-1) for p in parameters]).clone()


@contextmanager
def known_secret(number: int) -> Iterator[None]:
    """Every secret of the body is a known one, the same for all: so that two runs differ in their patients alone."""
    key = number.to_bytes(KEY_BYTES, "big")
    with mock.patch.object(Keystream, "secret", lambda: Keystream(key)):  # noqa: PT008 - a new stream each time
        yield
