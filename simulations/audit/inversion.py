"""Gradient inversion: a patient's picture out of one update of a round in which nobody else was drawn.

*At the door*: a network whose first layer is fully connected hands its input over. The gradient of a row of weights is
the input times the gradient of the row's bias, so that one divided by the other is the picture (Phong et al. 2018).
A coordinator can't change the network of an approved study, so this is the worst case of all, not the study's own.

The update comes from ``train_round``, once without privacy and once with the study's: there the
gradient is clipped and noise added, and the same division gives noise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from client.training.local import train_round
from common.models.resnet import INPUT_MEAN, INPUT_SCALE
from common.privacy.plan import PrivacyPlan
from common.study import Study
from simulations.audit.canaries import plainly_released
from simulations.audit.checks import Check
from simulations.audit.shadow import Held

HIDDEN = 64
RECOVERED, HIDDEN_BELOW = 0.8, 0.2  # correlation with the original: the same picture, and nothing of it
Picture = NDArray[np.uint8]


class DoorNetwork(nn.Module):
    """Two fully connected layers; the first sees every pixel."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.door = nn.Linear(pixels, HIDDEN)
        self.head = nn.Linear(HIDDEN, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.door(pictures.flatten(1))))
        return logits


@dataclass(frozen=True)
class Inversion:
    """Pictures uint8 [size, size] (the middle channel), and how like the original they are (1 is equal).

    ``similarity``: structural (SSIM), what a reader sees; flat noise resembles a flat background a little.
    ``correlation``: of the grey levels, 0 but for chance where nothing of the patient is left.
    """

    original: Picture
    bare: Picture
    private: Picture
    similarity_bare: float
    similarity_private: float
    correlation_bare: float
    correlation_private: float


def invert(study: Study, plan: PrivacyPlan, patient: Held) -> Inversion:
    """Invert one step's update on the one patient of ``patient``, without and with privacy."""
    alone = Held(patient.pictures[:1], patient.labels[:1], [np.array([0])])
    original = alone.pictures[0].astype(np.float64)
    bare = recover(update(study.without_privacy(), None, alone), original.shape)
    private = recover(update(study, plan, alone), original.shape)
    middle = original.shape[0] // 2
    planes = [one[middle] for one in (original, bare, private)]
    pictures = [np.rint(plane).astype(np.uint8) for plane in planes]
    similar = [_similarity(planes[0], plane) for plane in planes[1:]]
    alike = [_correlation(planes[0], plane) for plane in planes[1:]]
    return Inversion(*pictures, *similar, *alike)


def update(study: Study, plan: PrivacyPlan | None, alone: Held) -> dict[str, Tensor]:
    """What one step of SGD at rate 1 changes of the door's weights, by name: the gradient as it was released."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DoorNetwork(alone.pictures[0].size, len(study.task.classes))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    plain = plainly_released(study)
    certain = None if plan is None else replace(plan, sampling_rate=1.0)  # drawn: what the attacker hopes for
    train_round(model, alone, alone.patients, plain, certain, round_=1, seed=0, steps=1)
    return {name: before[name] - value.detach() for name, value in model.named_parameters()}


def recover(change: dict[str, Tensor], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The input in grey levels 0 to 255 [channels, size, size]: the rows' quotients, weighted by their biases' squares."""
    weights, biases = change["door.weight"].double(), change["door.bias"].double()
    inputs = (biases[:, None] * weights).sum(0) / biases.square().sum().clamp_min(1e-30)
    levels = (inputs.numpy() * INPUT_SCALE + INPUT_MEAN) * 255
    return np.clip(np.nan_to_num(levels), 0, 255).reshape(shape)


def _similarity(original: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    similarity: Any = structural_similarity  # untyped
    return float(similarity(original, found, data_range=255.0))


def _correlation(original: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    if found.std() == 0 or original.std() == 0:
        return 0.0
    return float(np.corrcoef(original.ravel(), found.ravel())[0, 1])


def inversion_check(found: Inversion) -> Check:
    """Passes if the private update does not show the patient."""
    works = found.correlation_bare > RECOVERED
    return Check(
        part="attacks",
        name="gradient inversion",
        rule=f"the picture recovered from a private update correlates with the patient's by less than {HIDDEN_BELOW:g}",
        passed=abs(found.correlation_private) < HIDDEN_BELOW,
        found=(
            f"From the update of one patient alone the picture comes back with a correlation of "
            f"{found.correlation_bare:.3f} without privacy and {found.correlation_private:.3f} with it (structural "
            f"similarity {found.similarity_bare:.2f} and {found.similarity_private:.2f}; 1 is equal)."
            + ("" if works else " The attack did not work without privacy either, so this says little.")
        ),
        figures={
            "correlation": {"without_privacy": found.correlation_bare, "with_privacy": found.correlation_private},
            "similarity": {"without_privacy": found.similarity_bare, "with_privacy": found.similarity_private},
        },
    )
