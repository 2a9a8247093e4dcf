"""From what the models said of each patient to figures, differences and tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from common.metrics import Counts
from common.study import Study
from server.evaluation import evaluate
from simulations.compare.content import (
    FIELDS,
    Arm,
    Difference,
    Duel,
    Field_,
    FoldFigures,
    Kind,
    Spread,
    Test,
    TestName,
)
from simulations.compare.judgements import Judgement, Pair
from simulations.compare.significance import Finding, corrected_t, delong, holm, mcnemar, paired_interval, wilcoxon

Key = tuple[str, Kind]
Said = Sequence[dict[str, Judgement]]
"""One a fold, or one: what a model said, by site."""


def arm(key: Key, study: Study, said: Said) -> Arm:
    """The figures of one study that was trained in one way; ``study``: that of any fold."""
    classes, bins = study.task.classes, study.evaluation.score_bins
    sites = list(said[0])
    by_fold = [{site: one[site].counts(bins) for site in sites} for one in said]
    by_site = {site: _total([one[site] for one in by_fold], study) for site in sites}
    folds: tuple[FoldFigures, ...] = ()
    if len(said) > 1:
        folds = tuple(_fold(number, _total(one.values(), study), study) for number, one in enumerate(by_fold, start=1))
    outside = key[1] == "unseen" and not study.evaluation.folds
    outsiders = {site: said[0][site].counts(bins, everybody=True) for site in sites} if outside else {}
    return Arm(
        study=key[0],
        kind=key[1],
        metrics=evaluate(_total(by_site.values(), study), classes),
        per_site={site: evaluate(counts, classes) for site, counts in by_site.items()},
        folds=folds,
        spread={name: _spread(folds, name) for name in FIELDS} if folds else {},
        everybody={site: evaluate(counts, classes) for site, counts in outsiders.items()},
    )


def duels(pairs: Sequence[tuple[Key, Key]], said: dict[Key, Said], *, scores: bool) -> list[Duel]:
    """Each pair with its tests, corrected over the pairs. ``scores``: whether DeLong's test may look at them."""
    found = [_duel(first, second, said[first], said[second], scores=scores) for first, second in pairs]
    names: list[TestName] = list(dict.fromkeys(name for duel in found for name in duel.tests))
    for name in names:
        adjusted = holm([duel.tests[name].p for duel in found])
        found = [
            duel.model_copy(update={"tests": duel.tests | {name: duel.tests[name].model_copy(update={"adjusted": p})}})
            for duel, p in zip(found, adjusted, strict=True)
        ]
    return found


def settings_that_differ(studies: Sequence[Study]) -> tuple[Difference, ...]:
    """What the studies differ in, name and texts apart."""
    flat = [_flat(study.model_dump(mode="json")) for study in studies]
    keys = [key for key in flat[0] if key not in ("name", "title", "description", "evaluation.fold")]
    return tuple(
        Difference(setting=key, values=tuple(one.get(key) for one in flat))
        for key in keys
        if any(one.get(key) != flat[0][key] for one in flat)
    )


def _flat(content: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= {f"{key}.{inner}": v for inner, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _total(parts: Iterable[Counts], study: Study) -> Counts:
    return sum(parts, start=Counts.zero(len(study.task.classes), study.evaluation.score_bins))


def _fold(number: int, counts: Counts, study: Study) -> FoldFigures:
    found = evaluate(counts, study.task.classes)
    # A fold is one draw of many: its accuracy counts however few its patients, as its weight in the mean is small.
    hits = float(np.trace(counts.confusion))
    return FoldFigures(
        fold=number,
        cases=found.cases,
        accuracy=hits / found.cases if found.cases else None,
        balanced_accuracy=found.balanced_accuracy.value,
        macro_auroc=found.macro_auroc.value,
    )


def _spread(folds: Sequence[FoldFigures], name: Field_) -> Spread:
    values = [value for fold in folds if (value := getattr(fold, name)) is not None]
    return Spread(
        folds=len(values),
        mean=float(np.mean(values)) if values else None,
        sd=float(np.std(values, ddof=1)) if len(values) > 1 else None,
    )


def _duel(first: Key, second: Key, one: Said, other: Said, *, scores: bool) -> Duel:
    by_fold = [{site: Pair.of(a[site], b[site]) for site in a} for a, b in zip(one, other, strict=True)]
    by_site = {site: _sum(fold[site] for fold in by_fold) for site in by_fold[0]}
    total = _sum(by_site.values())
    tests: dict[TestName, Finding] = {}
    if len(one) > 1:
        steps = [_sum(fold.values()).difference for fold in by_fold]
        known = [step for step in steps if step is not None]
        too_few = Finding(None, note="fewer than two folds have patients")
        tests["corrected-t"] = corrected_t(known) if len(known) > 1 else too_few
        tests["wilcoxon"] = wilcoxon(known)
    tests["mcnemar"] = mcnemar(total.better, total.worse)
    if scores and len(one) == 1:
        tests["delong"] = _delong(one[0], other[0])
    difference, low, high = _difference(tests, total)
    return Duel(
        first=first,
        second=second,
        cases=total.cases,
        better=total.better,
        worse=total.worse,
        difference=difference,
        low=low,
        high=high,
        tests={name: _test(found) for name, found in tests.items()},
        per_site={site: pair.difference for site, pair in by_site.items()},
    )


def _difference(tests: dict[TestName, Finding], total: Pair) -> tuple[float | None, float | None, float | None]:
    """Difference of the accuracies with its interval: the mean over folds where there are any, else over patients."""
    over_folds = tests.get("corrected-t")
    if over_folds is not None:
        low, high = (None if x is None else min(1.0, max(-1.0, x)) for x in (over_folds.low, over_folds.high))
        return over_folds.difference, low, high
    limits = paired_interval(total.better, total.worse, total.cases) if total.cases and total.whole else (None, None)
    return total.difference, *limits


def _delong(one: dict[str, Judgement], other: dict[str, Judgement]) -> Finding:
    """DeLong's test over all sites, for patients whom both models were asked about once."""
    first, second = _rows(one), _rows(other)
    both = sorted(first.keys() & second.keys())
    if any(first[key][0] is None or second[key][0] is None for key in both):
        return Finding(None, note="patients have several labels each, and their images are no independent cases")
    if not both:
        return Finding(None, note="no patient was judged by both")
    labels = np.array([first[key][0] for key in both], dtype=np.int64)
    return delong(labels, *(np.stack([found[key][1] for key in both]) for found in (first, second)))


def _rows(said: dict[str, Judgement]) -> dict[tuple[str, bytes], tuple[int | None, Any]]:
    """Label and probabilities of each held-out patient by site and pseudonym; a label of None: several."""
    found: dict[tuple[str, bytes], tuple[int | None, Any]] = {}
    for site, judgement in said.items():
        decisions = judgement.decisions
        for place, label, row in zip(decisions.patients, decisions.labels, decisions.probabilities, strict=True):
            if judgement.held_out[place]:
                key = (site, judgement.pseudonyms[place].tobytes())
                found[key] = (None if key in found else int(label), row)
    return found


def _sum(pairs: Iterable[Pair]) -> Pair:
    return sum(pairs, start=Pair())


def _test(found: Finding) -> Test:
    return Test(
        p=found.p,
        adjusted=None,
        difference=found.difference,
        low=found.low,
        high=found.high,
        note=found.note,
    )
