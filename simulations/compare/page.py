"""``comparison.html`` and the table on the terminal, all from ``Contest``.

The page loads nothing and has no script; its content security policy forbids the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from common import svg
from common.files import write_atomic
from common.pages import page_environment
from server.report import words as report_words
from simulations.compare import figures, words

if TYPE_CHECKING:
    from pathlib import Path

    from server.results import Estimate
    from simulations.compare.content import Arm, Contest, Field_


def write_page(contest: Contest, path: Path) -> None:
    """Write the page, whole or not at all. OSError passes through."""
    write_atomic(path, page(contest).encode(), mode=0o644)


def page(contest: Contest) -> str:
    """The page as text."""
    environment = page_environment("simulations.compare")
    environment.globals.update(words=words, report=report_words, figure=_figure)
    with svg.style():
        drawn = {"accuracy": figures.accuracy(contest), "hospitals": figures.hospitals(contest)}
        if contest.folds:
            drawn["folds"] = figures.folds(contest)
        if contest.duels:
            drawn["differences"] = figures.differences(contest)
    return environment.get_template("comparison.html.j2").render(
        contest=contest,
        title=title(contest),
        style=Markup(page_environment("server.report").get_template("style.css.j2").render()),  # noqa: S704 - ours
        figures={name: Markup(text) for name, text in drawn.items()},  # noqa: S704 - made by svg.to_svg
        label=lambda key: words.arm_label(contest, key),
        shown=lambda duel: words.shown(contest, duel),
        tests=list(dict.fromkeys(name for duel in contest.duels for name in duel.tests)),
        outsiders=outsiders(contest),
        hospital_arms=figures.hospital_arms(contest),
        method=words.method(contest),
    )


def title(contest: Contest) -> str:
    """What the page is called."""
    first = contest.candidates[0]
    if len(contest.candidates) == 1:
        return first.title or first.name
    return report_words.joined(candidate.name for candidate in contest.candidates)


def outsiders(contest: Contest) -> list[tuple[str, str, Estimate, Estimate, float | None, Estimate | None]]:
    """For each study and hospital: accuracy with it in training, without it, the gap, and on all its patients."""
    arms = {(arm.study, arm.kind): arm for arm in contest.arms}
    gaps = {duel.first[0]: duel.per_site for duel in contest.duels if duel.second[1] == "unseen"}
    rows = []
    for (study, kind), arm in arms.items():
        if kind == "unseen":
            rows += [
                (study, site, *_outsider(arms[study, "federated"], arm, site, gaps[study])) for site in contest.sites
            ]
    return rows


def _outsider(
    together: Arm, without: Arm, site: str, gaps: dict[str, float | None]
) -> tuple[Estimate, Estimate, float | None, Estimate | None]:
    everybody = without.everybody[site].accuracy if site in without.everybody else None
    gap = gaps[site]
    return together.per_site[site].accuracy, without.per_site[site].accuracy, None if gap is None else -gap, everybody


def summary(contest: Contest) -> Table:
    """A row an arm: accuracy with its interval, mean and SD over folds."""
    table = Table()
    table.add_column("model")
    table.add_column("accuracy, 95 %", justify="right")
    table.add_column("mean AUROC", justify="right")
    if contest.folds:
        table.add_column(f"{contest.folds} folds: mean ± SD", justify="right")
    for arm in contest.arms:
        cells = [Text(words.arm_label(contest, (arm.study, arm.kind))), Text(_cell(arm.metrics.accuracy))]
        cells.append(Text(_figure(arm, "macro_auroc")))
        if contest.folds:
            cells.append(Text(_mean(arm, "accuracy")))
        table.add_row(*cells)
    return table


def _figure(arm: Arm, field: Field_) -> str:
    """An arm's figure: the mean over folds for what can't be pooled over models, else over all patients."""
    if field == "macro_auroc" and arm.folds:
        mean = arm.spread[field].mean
        return report_words.NOTES["few-cases"] if mean is None else f"{mean:.3f}"
    estimate: Estimate = getattr(arm.metrics, field)
    return report_words.value(estimate, share=field != "macro_auroc")


def _cell(estimate: Estimate) -> str:
    limits = report_words.interval(estimate)
    return f"{report_words.value(estimate)} ({limits})" if limits else report_words.value(estimate)


def _mean(arm: Arm, field: Field_) -> str:
    spread = arm.spread[field]
    if spread.mean is None:
        return report_words.DASH
    return report_words.percent(spread.mean) + (
        f" ± {words.points(spread.sd, sign=False)}" if spread.sd is not None else ""
    )
