"""Local training: the steps that one site makes in one round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.dp_step import PrivateStepper
from client.training.sampler import fixed_draw, poisson_draw, secret_generator
from client.training.views import augment, draw_views, to_input
from common.privacy.plan import PrivacyPlan
from common.study import Study


class Examples(Protocol):
    """What training needs of a cohort."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of every example."""

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, channels, size, size] of these examples."""


def learning_rate(study: Study, round_: int) -> float:
    """The learning rate of a round (from 1): constant, or half a cosine over the rounds."""
    base = study.training.learning_rate
    if study.training.schedule == "constant":
        return base
    return base * 0.5 * (1 + math.cos(math.pi * (round_ - 1) / study.federation.rounds))


def train_round(
    model: nn.Module,
    examples: Examples,
    patients: Sequence[NDArray[np.intp]],
    study: Study,
    plan: PrivacyPlan | None,
    *,
    round_: int,
    seed: int,
    steps: int | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Train ``model`` in place for one round with a fresh optimizer.

    ``patients``: example indices of each training patient. ``seed`` fixes draws, views and
    augmentation without privacy; with ``plan`` nothing of the round depends on it. ``steps`` defaults
    to the study's local steps. Raises ValueError when there are no patients.
    """
    if not patients:
        raise ValueError("no training patients")
    model.train()
    # A known seed would tell how one patient more shifts the views of all others, beyond the clip.
    views_rng = np.random.default_rng([seed, round_]) if plan is None else secret_generator()
    torch_rng = torch.Generator().manual_seed(int(views_rng.integers(2**62)))

    def batch(drawn: Sequence[NDArray[np.intp]]) -> tuple[Tensor, Tensor]:
        indices = draw_views(drawn, study.training.views_per_patient, views_rng)
        inputs = to_input(examples.pixels(indices))
        if study.training.augment:
            inputs = augment(inputs, study.input.view, torch_rng)
        return inputs, torch.from_numpy(examples.labels[indices])

    optimizer = make_optimizer(model, study, round_)
    count = study.training.local_steps if steps is None else steps
    if plan is None:
        for _ in range(count):
            chosen = fixed_draw(len(patients), study.training.batch_patients, views_rng)
            _plain_step(model, optimizer, batch([patients[i] for i in chosen]))
            if after_step:
                after_step()
        return
    secret = secret_generator()
    stepper = PrivateStepper(model, optimizer, plan, study.training.views_per_patient, batch)
    try:
        for _ in range(count):
            stepper.step([patients[i] for i in poisson_draw(len(patients), plan.sampling_rate, secret)])
            if after_step:
                after_step()
    finally:
        stepper.close()


def make_optimizer(model: nn.Module, study: Study, round_: int) -> torch.optim.Optimizer:
    """A fresh optimizer over the trainable parameters."""
    training = study.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    rate = learning_rate(study, round_)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=training.weight_decay, fused=True)
    return torch.optim.SGD(trainable, lr=rate, momentum=training.momentum, weight_decay=training.weight_decay)


def _plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    inputs, labels = batch
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(F.cross_entropy(model(inputs), labels))
    optimizer.step()
