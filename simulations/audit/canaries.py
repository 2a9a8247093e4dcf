"""Planted patients whose gradients are known: what the releases of a study tell of who was in it.

A canary is a patient whose picture is a row of a Hadamard matrix, +1 and -1, and whose network is one
linear layer at zero. Its gradient then points along that picture, is longer than the clip, and is at a right angle to
those of all other canaries. Nobody can make patients that are easier to find: each one's clipped gradient has length C
and meets no other's. They go through ``train_round`` as patients do (Poisson draws, views, clip, sum, noise,
optimizer, all rounds and steps of the study); only the network is another one, since the promise holds for any.

The one who guesses sees every step's release. Canary i leaves z = <release, direction> / C in it, which is 1
or 0 plus noise; the likelihood ratio of "in" against "out" is the best that can be made of it. The noise that is
really there is taken from directions in which no gradient can lie.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import hadamard
from torch import Tensor, nn

from client.training.local import train_round
from common.privacy.events import SubsampledGaussian
from common.privacy.plan import PrivacyPlan
from common.study import Study
from simulations.audit.bounds import LEVEL, Guesses, steinke_epsilon
from simulations.audit.checks import Check
from simulations.audit.family import event_of, f_dp_epsilon, scaled

SHARES = (0.125, 0.9)  # of the canaries guessed about: a few of which one is sure, and nearly all
FEWEST, MOST = 50, 8192
_SLICES = 2  # examples of a canary, all the same: a patient is more than one slice
_REACH = 16.0  # a canary's gradient is so many clips long before it is clipped
_QUARTER = 0.25
_REHEARSALS = 5


class Canaries:
    """Canaries as a cohort; satisfies ``client.training.views.Examples``.

    ``count`` patients of two examples each, uint8 [1, side, side], 0 or 255; ``directions`` [side^2, count].
    """

    def __init__(self, count: int) -> None:
        self.side = 2 ** math.ceil(math.log2(count) / 2)
        rows = hadamard(self.side**2, dtype=np.int8)[:count]
        self._pictures = (rows > 0).astype(np.uint8).reshape(count, 1, self.side, self.side) * np.uint8(255)
        self.directions = torch.from_numpy(rows.T.astype(np.float32)) / self.side
        self.labels = np.zeros(count * _SLICES, dtype=np.int64)
        self.patients = list(np.arange(count * _SLICES).reshape(count, _SLICES))

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, 1, side, side]."""
        return self._pictures[indices // _SLICES]


class LinearNetwork(nn.Module):
    """Logits [n, 2] that are linear in the picture, all zero at first.

    The gradient of a canary is (-1, 1) times its picture times ``reach``; the two rows always add up to zero.
    """

    def __init__(self, side: int, clip: float) -> None:
        super().__init__()
        self.head = nn.Linear(side * side, 2, bias=False)
        nn.init.zeros_(self.head.weight)
        self._gain = _REACH * clip / side

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.head(pictures.flatten(1) * self._gain)
        return logits


@dataclass(frozen=True)
class Game:
    """One play. ``inside`` [m]: which canaries were in; ``ratios`` [m]: log-likelihood ratio of being in.

    ``noise``: the noise multiplier that was found in the releases; ``steps``: how many were seen.
    """

    inside: NDArray[np.bool_]
    ratios: NDArray[np.float64]
    noise: float
    steps: int

    def guesses(self, made: int) -> Guesses:
        """About the ``made`` canaries of which one is most sure."""
        surest = np.argsort(-np.abs(self.ratios), kind="stable")[:made]
        right = (self.ratios[surest] > 0) == self.inside[surest]
        return Guesses(len(self.inside), made, int(right.sum()))


def plainly_released(study: Study) -> Study:
    """The study with an optimizer that changes nothing of a release: what follows the noise is no part of the game.

    Its network has no views to pool; what ``simulations.audit.replay`` runs is the study's own.
    """
    plain = {"optimizer": "sgd", "learning_rate": 1.0, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    training = study.training.model_copy(update={**plain, "augment": False})
    model = study.model.model_copy(update={"pooling": "mean"})
    return study.model_copy(update={"training": training, "model": model})


def play(
    study: Study,
    plan: PrivacyPlan,
    canaries: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Game:
    """All rounds of the study over canaries, each of which ``rng`` puts in with probability 1/2."""
    cohort = Canaries(canaries)
    inside = rng.random(canaries) < 0.5
    inside[rng.integers(canaries)] |= not inside.any()  # a cohort of nobody is refused; chance 2^-m
    patients = [cohort.patients[i] for i in np.flatnonzero(inside)]
    model, plain = LinearNetwork(cohort.side, plan.clip), plainly_released(study)
    releases: list[Tensor] = []

    def read() -> None:
        with torch.no_grad():
            releases.append(-model.head.weight.detach() * (plan.denominator / plan.clip))
            model.head.weight.zero_()

    for round_ in range(1, plan.rounds + 1):
        train_round(model, cohort, patients, plain, plan, round_=round_, seed=0, after_step=read)
        progress(round_, plan.rounds)
    signals = [((r[1] - r[0]) * 0.5**0.5 @ cohort.directions).double().numpy() for r in releases]
    blank = torch.stack([(r[0] + r[1]) * 0.5**0.5 for r in releases]).double()
    noise = float(blank.square().mean().sqrt())
    return Game(inside, sum_of_ratios(np.stack(signals), noise, plan.sampling_rate), noise, len(releases))


def sum_of_ratios(signals: NDArray[np.float64], noise: float, rate: float) -> NDArray[np.float64]:
    """Log-likelihood ratios [m] of in against out, over the steps of ``signals`` [steps, m].

    In a step the signal is N(1, noise^2) for one who was drawn and N(0, noise^2) for one who was not.
    """
    variance = max(noise, 1e-3) ** 2
    drawn = (signals - 0.5) / variance
    if rate < 1:
        drawn = np.logaddexp(math.log1p(-rate), math.log(rate) + drawn)
    total: NDArray[np.float64] = drawn.sum(axis=0)
    return total


def rehearse(event: SubsampledGaussian, noise: float, canaries: int, rng: np.random.Generator) -> Game:
    """A play of the ideal mechanism with the draws of ``event`` and ``noise``, without a network."""
    inside = rng.random(canaries) < 0.5
    ratios = np.zeros(canaries)
    for _ in range(event.steps):
        drawn = inside & (rng.random(canaries) < event.q)
        signals = drawn + noise * rng.standard_normal(canaries)
        ratios += sum_of_ratios(signals[None], noise, event.q)
    return Game(inside, ratios, noise, event.steps)


@dataclass(frozen=True)
class Bounds:
    """Lower bounds on epsilon at the study's delta, each with 95 % confidence."""

    steinke: float
    f_dp: float
    guesses: tuple[Guesses, ...]

    @property
    def highest(self) -> float:
        return max(self.steinke, self.f_dp)


def made_of(canaries: int) -> tuple[int, ...]:
    """How many guesses are made for each of ``SHARES``."""
    return tuple(max(1, int(share * canaries)) for share in SHARES)


def bounds_of(game: Game, event: SubsampledGaussian, delta: float) -> Bounds:
    """Both bounds from guesses about each of ``SHARES``, which share the chance of an error."""
    guesses = tuple(game.guesses(made) for made in made_of(len(game.inside)))
    level = LEVEL / len(SHARES)
    return Bounds(
        steinke=max(steinke_epsilon(one, delta, level) for one in guesses),
        f_dp=max(f_dp_epsilon(one, event, delta, level) for one in guesses),
        guesses=guesses,
    )


@dataclass(frozen=True)
class CanaryResult:
    """What the canaries showed beside the ``claim``, and what they could have shown.

    ``expected``: f-DP bound to expect of a mechanism that is right; ``expected_quarter``: with a quarter of its noise.
    """

    canaries: int
    steps: int
    claim: float
    delta: float
    bounds: Bounds
    noise_planned: float
    noise_found: float
    expected: float
    expected_quarter: float

    @property
    def has_power(self) -> bool:
        """Whether noise four times too small would have been seen in the bound."""
        return self.expected_quarter > self.claim


def canary_audit(
    study: Study,
    plan: PrivacyPlan,
    canaries: int,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> CanaryResult:
    """Play the game, and compare what it proves with the study's claim."""
    event = event_of(plan)
    game = play(study, plan, canaries, rng, progress)
    return CanaryResult(
        canaries=canaries,
        steps=game.steps,
        claim=plan.epsilon,
        delta=plan.delta,
        bounds=bounds_of(game, event, plan.delta),
        noise_planned=plan.sigma,
        noise_found=game.noise,
        expected=_expected(event, 1.0, canaries, plan.delta),
        expected_quarter=_expected(event, _QUARTER, canaries, plan.delta),
    )


def _expected(event: SubsampledGaussian, share: float, canaries: int, delta: float) -> float:
    """Median f-DP bound over rehearsals with ``share`` of the noise."""
    noise = scaled(event, share).sigma
    games = [rehearse(event, noise, canaries, np.random.default_rng(seed)) for seed in range(_REHEARSALS)]
    typical = [(made, int(np.median([game.guesses(made).right for game in games]))) for made in made_of(canaries)]
    level = LEVEL / len(SHARES)
    return max(f_dp_epsilon(Guesses(canaries, made, right), event, delta, level) for made, right in typical)


def canary_check(result: CanaryResult) -> Check:
    """Passes unless a bound is above the claim."""
    bounds = result.bounds
    power = (
        f"A mechanism that is right lets one expect about {result.expected:.1f}, a quarter of its noise "
        f"{result.expected_quarter:.1f}"
    )
    if not result.has_power:
        power += f": {result.canaries} canaries are too few to tell a quarter of the noise here, so passing says little"
    return Check(
        part="canaries",
        name="lower bound on epsilon",
        rule=f"what {result.canaries} canaries prove about epsilon is at most the claim, {result.claim:g}",
        passed=bounds.highest <= result.claim,
        found=(
            f"Epsilon is at least {bounds.f_dp:.2f} (f-DP) and {bounds.steinke:.2f} (Steinke et al.) at delta "
            f"{result.delta:g}, with 95 % confidence each. {power}."
        ),
        figures={**asdict(result), "has_power": result.has_power},
    )
