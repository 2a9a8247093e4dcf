"""The figures of a comparison's page, as inline SVG. Call them within ``svg.style``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, PercentFormatter

from common import svg
from server.report import words
from simulations.compare.words import WAYS, arm_label, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from server.results import Estimate
    from simulations.compare.content import Arm, Contest, Kind

WIDE = 6.8
COLOURS: dict[Kind, str] = {
    "local": svg.LOCAL,
    "federated": svg.FEDERATED,
    "central": svg.CENTRAL,
    "unseen": svg.GOOD,
}
MOST_BARS = 8  # of a hospital; the table has the rest


def accuracy(contest: Contest) -> str:
    """A bar for each arm: accuracy over all held-out patients, with its 95 % interval."""
    figure, axes = _rows([arm_label(contest, (arm.study, arm.kind)) for arm in contest.arms], 0.3)
    for row, arm in enumerate(contest.arms):
        _bar(axes, row, arm.metrics.accuracy, COLOURS[arm.kind], 0.62)
    axes.set(xlim=(0, 1), xlabel="accuracy on held-out patients")
    _shares(axes)
    _ways(figure, contest)
    return svg.to_svg(figure, "Accuracy of each model on all held-out patients, with 95 % intervals")


def folds(contest: Contest) -> str:
    """A point for each fold of each arm, and a line at their mean."""
    figure, axes = _rows([arm_label(contest, (arm.study, arm.kind)) for arm in contest.arms], 0.3)
    values = []
    for row, arm in enumerate(contest.arms):
        points = [fold.accuracy for fold in arm.folds if fold.accuracy is not None]
        axes.plot(points, [row] * len(points), "o", color=COLOURS[arm.kind], alpha=0.6, markersize=6, linestyle="none")
        mean = arm.spread["accuracy"].mean
        if mean is not None:
            axes.vlines(mean, row - 0.32, row + 0.32, color=svg.INK, linewidth=1.4)
        values += points
    low = min(values, default=0.0)
    axes.set(xlim=(max(0.0, low - 0.1), 1.01), xlabel="accuracy in each fold; the line is the mean")
    _shares(axes)
    return svg.to_svg(figure, "Accuracy of each model in each fold")


def differences(contest: Contest) -> str:
    """For each pair the difference of the accuracies with its 95 % interval, and a line at none."""
    several = len(contest.candidates) > 1
    apart = "\n− " if several else " − "
    labels = [apart.join(svg.short(arm_label(contest, key), 40) for key in (d.first, d.second)) for d in contest.duels]
    figure, axes = _rows(labels, 0.42 if several else 0.32, length=90)
    axes.axvline(0, color=svg.INK, linewidth=0.8)
    for row, duel in enumerate(contest.duels):
        if duel.difference is None:
            axes.text(0, row, "  can't be compared", va="center", color=svg.MUTED, fontsize=8)
            continue
        colour = svg.FEDERATED if shown(contest, duel) else svg.MUTED
        if duel.low is not None and duel.high is not None:
            axes.hlines(row, duel.low, duel.high, color=colour, linewidth=1.6)
        axes.plot(duel.difference, row, "o", color=colour, markersize=5)
    reach = max([0.05, *(abs(x) for duel in contest.duels for x in (duel.low, duel.high, duel.difference) if x)])
    axes.set(xlim=(-1.08 * reach, 1.08 * reach), xlabel="difference of accuracy, in points")
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _place: f"{100 * x:+.0f}".replace("-", "−").replace("+0", "0"))
    )
    axes.grid(axis="x")
    return svg.to_svg(figure, "Differences of accuracy with 95 % intervals")


def hospitals(contest: Contest) -> str:
    """Bars of accuracy for each hospital: by way of training, or by study where there are several."""
    arms = hospital_arms(contest)
    colours = _colours(contest, arms)
    thick = 0.8 / len(arms)
    figure, axes = _rows([svg.short(site) for site in contest.sites], 0.16 + 0.17 * len(arms))
    for row, site in enumerate(contest.sites):
        for place, (arm, colour) in enumerate(zip(arms, colours, strict=True)):
            _bar(axes, row - 0.4 + (place + 0.5) * thick, arm.per_site[site].accuracy, colour, thick * 0.86)
    axes.set(xlim=(0, 1), xlabel="accuracy on the hospital's own held-out patients")
    _shares(axes)
    labels = [arm_label(contest, (arm.study, arm.kind)) for arm in arms]
    handles = [
        Rectangle((0, 0), 1, 1, color=colour, label=svg.short(label, 34))
        for colour, label in zip(colours, labels, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=1, handleheight=1)
    return svg.to_svg(figure, "Accuracy of each hospital, with 95 % intervals")


def hospital_arms(contest: Contest) -> list[Arm]:
    """The arms that are shown by hospital: all of one study, or the federated models of several."""
    several = len(contest.candidates) > 1
    return [arm for arm in contest.arms if not several or arm.kind == "federated"][:MOST_BARS]


def _colours(contest: Contest, arms: Sequence[Arm]) -> list[str]:
    if len(contest.candidates) == 1:
        return [COLOURS[arm.kind] for arm in arms]
    return [colour for colour, _ in svg.cycle_colours(len(arms))]


def _rows(labels: Sequence[str], height: float, *, length: int = 40) -> tuple[Figure, Axes]:
    """Axes with a named row for each label, the first on top."""
    figure, axes = svg.new_figure(WIDE, 0.85 + height * len(labels))
    axes.set_yticks(range(len(labels)), [svg.short(label, length) for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    return figure, axes


def _bar(axes: Axes, y: float, estimate: Estimate, colour: str, thick: float) -> None:
    """One bar with its interval, or the words that stand for it."""
    if estimate.value is None:
        note = ": ".join(part for part in (words.basis(estimate), words.value(estimate)) if part)
        axes.text(0.006, y, note, va="center", color=svg.MUTED, fontsize=7)
        return
    axes.barh(y, estimate.value, height=thick, color=colour, zorder=2)
    if estimate.low is not None and estimate.high is not None:
        axes.hlines(y, estimate.low, estimate.high, color=svg.INK, linewidth=1, zorder=3)


def _shares(axes: Axes) -> None:
    axes.grid(axis="x")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\u00a0%"))


def _ways(figure: Figure, contest: Contest) -> None:
    """A legend of the ways of training, where rows are named by study too."""
    kinds = list(dict.fromkeys(arm.kind for arm in contest.arms))
    if len(contest.candidates) > 1 and len(kinds) > 1:
        handles = [Rectangle((0, 0), 1, 1, color=COLOURS[kind], label=WAYS[kind]) for kind in kinds]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, handlelength=1, handleheight=1)
