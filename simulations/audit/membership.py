"""Membership inference: was this patient among those whom the model was trained on?

The likelihood-ratio attack (Carlini et al. 2022, LiRA, online, with one variance for all). Many models are trained, each on
a random half of the synthetic patients. For a patient, the confidence of models that were trained on it is compared with that of
models that were not; each model in turn is the one attacked, and all the others are the attacker's. Done
with the study's privacy and without, on the same halves from the same start. The attacker sees the final model only.

No attack can be above the study's trade-off curve: at a false-positive rate x, at most 1 - f(x) of the members are
found. A lower confidence limit above it fails the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from client.training.evaluate import predict
from client.training.local import train_round
from client.training.views import Examples
from common.models.weights import initial_model
from common.privacy.plan import PrivacyPlan, plan_for
from common.study import Study
from simulations.audit.bounds import LEVEL
from simulations.audit.checks import Check
from simulations.audit.family import event_of, trade_off

MODELS = 16
SIZE, MOST_STEPS, MOST_VIEWS = 64, 60, 2
RATES = (0.001, 0.01, 0.1)
_SEED = 4  # of the halves and the start: public, equal in every audit
_LEAST = 1e-6  # probabilities are kept this far from 0 and 1
Patients = Sequence[NDArray[np.intp]]


@dataclass(frozen=True)
class Attack:
    """One attack over ``pairs`` of model and patient, half of them members. ``scores`` rise with membership."""

    scores: NDArray[np.float64]
    members: NDArray[np.bool_]

    @property
    def auc(self) -> float:
        return float(roc_auc_score(self.members, self.scores))

    def curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """False and true positive rates, ascending from (0, 0) to (1, 1)."""
        false, true, _ = roc_curve(self.members, self.scores)
        return false, true

    def found(self, rate: float) -> tuple[int, int]:
        """Members found, and strangers taken for members, at a false-positive rate of at most ``rate``."""
        false, true, _ = roc_curve(self.members, self.scores, drop_intermediate=False)
        last = int(np.flatnonzero(false <= rate)[-1])
        positives, negatives = int(self.members.sum()), int((~self.members).sum())
        return round(true[last] * positives), round(false[last] * negatives)

    def summary(self) -> dict[str, Any]:
        """AUC and true-positive rates at ``RATES``, for JSON."""
        positives = int(self.members.sum())
        return {
            "auc": self.auc,
            "pairs": len(self.scores),
            "tpr": {f"{rate:g}": self.found(rate)[0] / positives for rate in RATES},
        }


def small_study(study: Study, members: int) -> Study:
    """The study for ``members`` patients, small enough to train many models: ResNet-18, at most 64 pixels a side
    over the same field of view, 60 steps and 2 views. Its noise follows, so that the claim stays.
    """
    size = min(SIZE, study.input.size)
    image = study.input.model_copy(
        update={"size": size, "spacing_mm": study.input.spacing_mm * study.input.size / size}
    )
    training, federation = study.training, study.federation
    steps = min(training.local_steps, MOST_STEPS)
    rounds = max(1, min(federation.rounds, MOST_STEPS // steps))
    batch = max(1, round(members * (study.privacy.sampling_rate or 1.0)))
    update = {
        "local_steps": steps,
        "batch_patients": batch,
        "views_per_patient": min(training.views_per_patient, MOST_VIEWS),
    }
    return study.model_copy(
        update={
            "input": image,
            "model": study.model.model_copy(update={"name": "resnet18"}),
            "training": training.model_copy(update=update),
            "federation": federation.model_copy(update={"rounds": rounds}),
        }
    )


def membership(
    study: Study,
    examples: Examples,
    patients: Patients,
    models: int = MODELS,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> tuple[Attack, Attack]:
    """The attack on bare models and on private ones, of ``study`` (see ``small_study``)."""
    inside = halves(models, len(patients))
    attacks = []
    for number, one in enumerate((study.without_privacy(), study)):
        plan = plan_for(one)
        confidences = np.empty(inside.shape)
        for row, chosen in enumerate(inside):
            confidences[row] = _confidences(one, plan, examples, patients, chosen, seed=row)
            progress(number * models + row + 1, 2 * models)
        attacks.append(likelihood_ratio(confidences, inside))
    return attacks[0], attacks[1]


def halves(models: int, patients: int) -> NDArray[np.bool_]:
    """Who is a member [models, patients]: in pairs of models, a random half and the other half."""
    rng = np.random.default_rng(_SEED)
    rows = [rng.permutation(patients) < patients // 2 for _ in range(models // 2)]
    return np.stack([row for half in rows for row in (half, ~half)])


def _confidences(
    study: Study,
    plan: PrivacyPlan | None,
    examples: Examples,
    patients: Patients,
    chosen: NDArray[np.bool_],
    *,
    seed: int,
) -> NDArray[np.float64]:
    """log(p / (1 - p)) of the true label [patients], after training on the chosen ones."""
    model = initial_model(study, seed=_SEED)
    members = [patient for patient, member in zip(patients, chosen, strict=True) if member]
    for round_ in range(1, study.federation.rounds + 1):
        train_round(model, examples, members, study, plan, round_=round_, seed=seed)
    rows = np.concatenate(list(patients))
    chances = predict(model, examples, rows)[np.arange(len(rows)), examples.labels[rows]]
    safe = np.clip(np.nan_to_num(chances, nan=0.5), _LEAST, 1 - _LEAST)
    ends = np.cumsum([len(patient) for patient in patients])[:-1]
    return np.array([part.mean() for part in np.split(np.log(safe) - np.log1p(-safe), ends)])


def likelihood_ratio(confidences: NDArray[np.float64], inside: NDArray[np.bool_]) -> Attack:
    """Each model attacked with all the others as shadow models; both arrays [models, patients]."""
    models = len(confidences)
    scores = np.empty(confidences.shape)
    for target in range(models):
        others = np.arange(models) != target
        values, member = confidences[others], inside[others]
        means = [np.where(side, values, 0).sum(0) / np.maximum(1, side.sum(0)) for side in (member, ~member)]
        rest = values - np.where(member, means[0], means[1])
        variance = max(float(np.square(rest).mean()), 1e-12)
        away, near = confidences[target] - means[1], confidences[target] - means[0]
        scores[target] = (np.square(away) - np.square(near)) / (2 * variance)
    return Attack(scores.ravel(), inside.ravel())


def membership_check(bare: Attack, private: Attack, plan: PrivacyPlan) -> Check:
    """Fails where the attack on private models finds more members than the claim permits, beyond chance."""
    curve = trade_off(event_of(plan))
    positives, negatives = int(private.members.sum()), int((~private.members).sum())
    broken = []
    for rate in RATES:
        found, taken = private.found(rate)
        share = _limit(found, positives, lower=True)
        if share > curve.most(_limit(taken, negatives, lower=False)):
            broken.append(rate)
    lines = [
        f"at {100 * rate:g} % false alarms it finds {100 * bare.found(rate)[0] / positives:.1f} % of the members of "
        f"models without privacy and {100 * private.found(rate)[0] / positives:.1f} % with it"
        for rate in RATES[:2]
    ]
    return Check(
        part="attacks",
        name="membership inference",
        rule="no more members are found than the claim permits at any rate of false alarms",
        passed=not broken,
        found=(
            f"The likelihood-ratio attack has an AUC of {bare.auc:.3f} without privacy and {private.auc:.3f} with it (0.5 is "
            f"guessing); {'; '.join(lines)}. {negatives} pairs of model and stranger stand behind the rates."
        ),
        figures={
            "without_privacy": bare.summary(),
            "with_privacy": private.summary(),
            "permitted": {f"{rate:g}": curve.most(rate) for rate in RATES},
            "broken": broken,
        },
    )


def _limit(successes: int, trials: int, *, lower: bool) -> float:
    """One limit of Clopper and Pearson's interval, Bonferroni-corrected over the rates."""
    level = LEVEL / (2 * len(RATES))
    if lower:
        return float(stats.beta.ppf(level, successes, trials - successes + 1)) if successes else 0.0
    return float(stats.beta.ppf(1 - level, successes + 1, trials - successes)) if successes < trials else 1.0
