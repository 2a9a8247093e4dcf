"""How badly a vertebra is broken: the one place where the three classes are defined and overlap.

The class of a patient reaches the image only through the three numbers of ``Severity``: nothing else
in the phantom knows the label. Each is drawn from a scaled beta law of its class, and the laws
overlap on purpose:

- a mild compression loses as little height as an old or physiological wedge of a normal spine;
- a mild burst pushes its posterior wall no further back than the bulge of a compression or the
  posterior osteophyte of a worn normal spine.

So no reader can be perfect. ``ceiling`` gives the accuracy of the best possible reader, who is told
the three numbers exactly and knows the laws below; ``overlap`` gives the share of patients whose
numbers are also possible for another class. With the laws below the ceiling is about 0.977, and one
patient in five lies where another class is possible too (tests hold both). A reader of noisy images
stays below the ceiling. The laws follow the signs of the AO Spine and Genant schemes: height lost by
the body (grade 1 begins at 20 %), and integrity of the posterior wall.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

LABELS = ("compression", "burst", "normal")
PRIOR = (279 / 698, 295 / 698, 124 / 698)
"""Shares of the classes where no counts are given: those of the 698-patient study of the literature."""


@dataclass(frozen=True)
class Law:
    """A beta law on ``[low, high]`` with shape ``alpha``, ``beta``."""

    low: float
    high: float
    alpha: float
    beta: float

    def draw(self, rng: np.random.Generator) -> float:
        return self.low + (self.high - self.low) * float(rng.beta(self.alpha, self.beta))

    def density(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        unit = (values - self.low) / (self.high - self.low)
        found: NDArray[np.float64] = beta.pdf(unit, self.alpha, self.beta) / (self.high - self.low)
        return found


@dataclass(frozen=True)
class ClassLaws:
    """The laws of one class. Difficulty is tuned here and nowhere else."""

    height_loss: Law
    """Share of the body's height lost where it is lost most, 0 to 1."""
    bulge_mm: Law
    """How far the posterior wall stands beyond its place, in mm into the canal."""
    age: Law
    """Years. It also sets bone density, so it is information that an image carries."""


LAWS: dict[str, ClassLaws] = {
    "compression": ClassLaws(Law(0.13, 0.65, 2.2, 2.0), Law(0.0, 3.6, 1.3, 3.6), Law(30, 95, 3.2, 1.8)),
    "burst": ClassLaws(Law(0.15, 0.70, 2.2, 2.2), Law(1.5, 11.0, 2.0, 2.0), Law(18, 90, 2.0, 2.4)),
    "normal": ClassLaws(Law(0.0, 0.28, 1.2, 4.2), Law(0.0, 3.0, 1.2, 4.0), Law(18, 92, 2.2, 2.0)),
}


@dataclass(frozen=True)
class Severity:
    """What the image shows of the class: height lost (share), bulge into the canal (mm), age (years)."""

    height_loss: float
    bulge_mm: float
    age: float


def draw_severity(label: str, rng: np.random.Generator) -> Severity:
    """A patient of class ``label``."""
    laws = LAWS[label]
    return Severity(laws.height_loss.draw(rng), laws.bulge_mm.draw(rng), laws.age.draw(rng))


def posterior(cases: list[Severity]) -> NDArray[np.float64]:
    """Probability of each class given the exact numbers, shape ``(len(cases), 3)`` in the order of LABELS."""
    loss = np.array([case.height_loss for case in cases])
    bulge = np.array([case.bulge_mm for case in cases])
    age = np.array([case.age for case in cases])
    joint = np.stack(
        [
            share
            * LAWS[label].height_loss.density(loss)
            * LAWS[label].bulge_mm.density(bulge)
            * LAWS[label].age.density(age)
            for label, share in zip(LABELS, PRIOR, strict=True)
        ],
        axis=1,
    )
    shares: NDArray[np.float64] = joint / joint.sum(axis=1, keepdims=True)
    return shares


def ceiling(cases: int = 20_000, seed: int = 0) -> float:
    """Accuracy of the best reader possible (Bayes rule on the exact numbers), by simulation."""
    drawn, truth = _draw_cases(cases, seed)
    return float(np.mean(posterior(drawn).argmax(axis=1) == truth))


def overlap(cases: int = 20_000, seed: int = 0) -> float:
    """Share of patients whose height loss and bulge both lie in the range of another class."""
    drawn, truth = _draw_cases(cases, seed)
    shared = 0
    for case, own in zip(drawn, truth, strict=True):
        others = (LAWS[label] for index, label in enumerate(LABELS) if index != own)
        shared += any(
            laws.height_loss.low <= case.height_loss <= laws.height_loss.high
            and laws.bulge_mm.low <= case.bulge_mm <= laws.bulge_mm.high
            for laws in others
        )
    return shared / cases


def _draw_cases(cases: int, seed: int) -> tuple[list[Severity], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(LABELS), size=cases, p=PRIOR)
    return [draw_severity(LABELS[index], rng) for index in truth], truth
