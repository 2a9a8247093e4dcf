"""Local training: the steps that one site makes in one round."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from client.training.dp_step import PrivateStepper
from client.training.drift import correct
from client.training.features import Features, head_alone
from client.training.randomness import Keystream
from client.training.sampler import fixed_draw, poisson_draw
from client.training.views import Examples, Views, together
from common.models import parts
from common.models.parts import Vector
from common.models.resnet import HEAD, Network
from common.privacy.plan import PrivacyPlan
from common.study import Study


def train_round(
    model: nn.Module,
    examples: Examples,
    patients: Sequence[NDArray[np.intp]],
    study: Study,
    plan: PrivacyPlan | None,
    *,
    round_: int,
    seed: int,
    correction: Vector | None = None,
    steps: int | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Train ``model`` in place for one round with a fresh optimizer.

    ``patients``: example indices of each training patient. ``seed`` fixes draws, views and
    augmentation without privacy; with ``plan`` nothing of the round depends on it. ``correction``: SCAFFOLD's, for
    the shared weights. ``steps`` defaults to the study's local steps. Raises ValueError when there are no patients.
    """
    if not patients:
        raise ValueError("no training patients")
    model.train()
    stream = Keystream.seeded(seed, round_) if plan is None else Keystream.secret()
    features = Features(model, examples) if isinstance(model, Network) and head_alone(model, study) else None
    trained = model if features is None else model.get_submodule(HEAD.rstrip("."))
    views, draws = Views(examples, study, stream.child(b"views"), features), stream.child(b"draws")
    optimizer = make_optimizer(model, study, round_)
    correct(optimizer, parts.shared(model, study), study.federation.proximal_mu or 0.0, correction)
    count = study.training.local_steps if steps is None else steps
    shown = study.training.views_per_patient
    if plan is None:
        for _ in range(count):
            chosen = fixed_draw(len(patients), study.training.batch_patients, draws)
            batch = views.batch([patients[i] for i in chosen])
            _plain_step(trained, optimizer, together(*batch, shown) if study.pools else batch)
            if after_step:
                after_step()
        return
    stepper = PrivateStepper(trained, optimizer, plan, shown, views.batch, pools=study.pools)
    try:
        for _ in range(count):
            stepper.step([patients[i] for i in poisson_draw(len(patients), plan.sampling_rate, draws)])
            if after_step:
                after_step()
    finally:
        stepper.close()


def make_optimizer(model: nn.Module, study: Study, round_: int) -> torch.optim.Optimizer:
    """A fresh optimizer over the trainable parameters."""
    training = study.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    rate = study.learning_rate(round_)
    if training.optimizer == "adamw":
        return torch.optim.AdamW(trainable, lr=rate, weight_decay=training.weight_decay, fused=True)
    return torch.optim.SGD(trainable, lr=rate, momentum=training.momentum, weight_decay=training.weight_decay)


def _plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    inputs, labels = batch
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(F.cross_entropy(model(inputs), labels))
    optimizer.step()
