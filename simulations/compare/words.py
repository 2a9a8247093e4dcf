"""What a comparison found, in sentences that claim no more than its tests do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from server.report import words
from simulations.compare.significance import LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulations.compare.content import Arm, Contest, Duel, Kind, Test, TestName

WAYS: dict[Kind, str] = {
    "local": "each hospital alone",
    "federated": "trained together",
    "central": "all data in one place",
    "unseen": "trained without the hospital",
}
TESTS: dict[TestName, str] = {
    "corrected-t": "corrected resampled t-test",
    "wilcoxon": "Wilcoxon signed-rank",
    "mcnemar": "McNemar",
    "delong": "DeLong, mean AUROC",
}

MOST_ALIKE = 3
"""Pairs without a difference that are each named."""


def arm_label(contest: Contest, key: tuple[str, Kind]) -> str:
    """How an arm is called: the way of training, with the study where there are several; the study alone if all are one way."""
    if len(contest.candidates) == 1:
        return WAYS[key[1]]
    one_way = len({arm.kind for arm in contest.arms}) == 1
    return key[0] if one_way else f"{key[0]}, {WAYS[key[1]]}"


def points(value: float | None, *, sign: bool = True) -> str:
    """A difference of proportions in percentage points."""
    if value is None:
        return words.DASH
    return f"{100 * value:{'+' if sign else ''}.1f}".replace("-", "−")


def reach(low: float | None, high: float | None) -> str:
    """The limits of a difference in percentage points; empty if there are none."""
    return "" if low is None or high is None else f"{points(low)} to {points(high)}"


def chance(p: float | None) -> str:
    """A p-value as it is printed; no rounding takes it across the level."""
    if p is None:
        return words.DASH
    if p < LEVEL <= round(p, 3):
        return f"< {LEVEL:g}"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def findings(contest: Contest) -> tuple[str, ...]:
    """A sentence or two for each federated model, then for each pair, by the test that decides.

    Many pairs without a difference share one sentence; the table has each of them.
    """
    together = [_result(contest, arm) for arm in contest.arms if arm.kind == "federated"]
    alike = [duel for duel in contest.duels if _is_tested(contest, duel) and not shown(contest, duel)]
    if len(alike) <= MOST_ALIKE:
        return (*together, *(_verdict(contest, duel) for duel in contest.duels))
    rest = [_verdict(contest, duel) for duel in contest.duels if duel not in alike]
    return (*together, *rest, _alike(contest, alike))


def shown(contest: Contest, duel: Duel) -> bool:
    """Whether the test that decides shows a difference, after correction."""
    adjusted = duel.tests[contest.decides].adjusted
    return adjusted is not None and adjusted < LEVEL


def _is_tested(contest: Contest, duel: Duel) -> bool:
    return duel.cases > 0 and duel.tests[contest.decides].p is not None and duel.difference is not None


def _alike(contest: Contest, duels: Sequence[Duel]) -> str:
    """Of several pairs without a difference."""
    other = "other " if len(duels) < len(contest.duels) else ""
    least = min(duel.tests[contest.decides].adjusted or 0.0 for duel in duels)
    limits = [abs(limit) for duel in duels for limit in (duel.low, duel.high) if limit is not None]
    text = (
        f"No difference was shown within any of the {len(duels)} {other}pairs ({TESTS[contest.decides]}, p at least "
        f"{chance(least)} after correction)."
    )
    if limits:
        text += f" That does not make them equal: up to {points(max(limits), sign=False)} points would fit these data."
    return text


def _result(contest: Contest, arm: Arm) -> str:
    accuracy = arm.metrics.accuracy
    name = "Trained together" if len(contest.candidates) == 1 else f"'{arm.study}', trained together,"
    if accuracy.value is None:
        return f"{name}, the model can't be judged: {words.value(accuracy)}."
    text = (
        f"{name}, the model was right for {words.basis(accuracy)} patients, {words.percent(accuracy.value)} "
        f"(95 % interval {words.interval(accuracy)})"
    ).replace(",,", ",")
    spread = arm.spread.get("accuracy")
    if spread is not None and spread.mean is not None and spread.sd is not None:
        text += f"; over {spread.folds} folds {words.percent(spread.mean)} on average, SD {points(spread.sd, sign=False)} points"
    return text + "."


def _verdict(contest: Contest, duel: Duel) -> str:
    first, second = arm_label(contest, duel.first), arm_label(contest, duel.second)
    test = duel.tests[contest.decides]
    if duel.cases == 0:
        return f"{_capital(first)} and {second} have no patient in common, so they can't be compared."
    if test.p is None or duel.difference is None:
        return f"{_capital(first)} against {second}: no test could be made ({test.note})."
    means = _means(contest, duel, test)
    if shown(contest, duel):
        winner, loser = (first, second) if duel.difference > 0 else (second, first)
        more = points(abs(duel.difference), sign=False)
        return f"{_capital(winner)} was better than {loser}, by {more} points of accuracy ({means})."
    text = f"No difference was shown between {first} and {second} ({points(duel.difference)} points; {means})."
    if duel.low is not None and duel.high is not None:
        most = max(abs(duel.low), abs(duel.high))
        text += f" That does not make them equal: up to {points(most, sign=False)} points would fit these data."
    return text


def _means(contest: Contest, duel: Duel, test: Test) -> str:
    """Interval, test and p-value, as they stand in brackets."""
    tested = sum(one.tests[contest.decides].p is not None for one in contest.duels)
    limits = reach(duel.low, duel.high)
    parts = [f"95 % interval {limits}" + (" before correction" if tested > 1 else "")] if limits else []
    corrected = f" after correction for {tested} comparisons" if tested > 1 else ""
    parts.append(f"{TESTS[contest.decides]}, p {_equals(test.adjusted)}{corrected}")
    return "; ".join(parts)


def _equals(p: float | None) -> str:
    text = chance(p)
    return text if text.startswith("<") else f"= {text}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def method(contest: Contest) -> list[str]:
    """How it was done and what it does not say."""
    lines = [
        (
            "All models were judged on the same held-out patients, matched at their hospital; what a hospital added is "
            "counts and sums. These counts are exact, and hold for simulated hospitals only."
        )
    ]
    if contest.folds:
        lines += [
            (
                f"Every patient was tested once, by the model of the fold that had not seen it. Training sets of the "
                f"{contest.folds} folds overlap, so their results are not independent: the t-test's variance is corrected "
                "for it (Nadeau and Bengio 2003), which is an approximation. Wilcoxon and McNemar are not corrected, and "
                "stand beside it."
            ),
            (
                "Intervals of a pooled figure are about other patients of the same hospitals; they leave out that "
                "each fold trained another model. The spread over folds shows that."
            ),
        ]
    else:
        lines.append(
            "One split and one training each: the tests are about other patients of the same hospitals, and say nothing "
            "of another random start. A cross-validation says more."
        )
    lines.append(
        "p-values are corrected by Holm's method over the pairs, for each test on its own. "
        f"The findings go by the {TESTS[contest.decides]} test alone."
        if contest.decides == "mcnemar"
        else "p-values are corrected by Holm's method over the pairs, for each test on its own. "
        f"The findings go by the {TESTS[contest.decides]} alone."
    )
    if any(candidate.epsilon is not None for candidate in contest.candidates):
        lines.append(
            "Each training is charged in full at every hospital that took part: folds, repetitions and trainings without one "
            "hospital have patients in common. Training alone or in one place is outside the ledgers."
        )
    return lines


def setting_value(value: object) -> str:
    """A setting's value in a table."""
    if isinstance(value, list | tuple):
        return ", ".join(setting_value(item) for item in value)
    return "unset" if value is None else str(value)
