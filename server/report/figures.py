"""The figures of the report: each function takes results and gives inline SVG.

Call them within ``svg.style``. Every figure works with one hospital or fifty, one round or
hundreds, and with figures that are missing; what is missing is written where it would stand.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator, PercentFormatter

from common import svg
from server.report import words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from server.report.course import Course, Measure
    from server.results import Estimate, Metrics, ReliabilityCurve, Results, RocCurve

SMALL = (4.4, 3.3)
WIDE = 6.8
MOST_LINES = 24
SPREAD = (10, 25, 75, 90)  # percentiles
STATUS_COLOURS = {"ok": svg.GOOD, "late": svg.LATE, "refused": svg.BAD, "failed": svg.BAD, "absent": svg.GONE}
STATUS_MARKS = {"ok": "", "late": "L", "refused": "R", "failed": "F", "absent": "A"}
MODELS = (
    ("local", "trained alone (local)", svg.LOCAL),
    ("federated", "trained together (federated)", svg.FEDERATED),
    ("central", "all data in one place (central)", svg.CENTRAL),
)


def confusion(metrics: Metrics) -> str:
    """Confusion matrix: cases, and their share of the row (the true class)."""
    table = np.array(metrics.confusion)
    totals = table.sum(axis=1, keepdims=True)
    shares = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    names = [svg.short(item.name, 16 if len(table) <= 8 else 24) for item in metrics.classes]
    figure, axes = svg.new_figure(SMALL[0], 3.6)
    for (row, column), share in np.ndenumerate(shares):
        colour = to_rgba(svg.FEDERATED, 0.06 + 0.94 * float(share))
        axes.add_patch(Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=colour, edgecolor="none"))
        if len(names) <= 8:
            text = f"{words.number(float(table[row, column]))}\n{100 * share:.0f} %"
            ink = svg.PAPER if share > 0.55 else svg.INK
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9, linespacing=1.35)
    size = len(names)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    slant = 0 if sum(map(len, names)) <= 40 else 60
    axes.set_xticks(range(size), names, rotation=slant, ha="right" if slant else "center", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    return svg.to_svg(figure, "Confusion matrix: rows the true class, columns the predicted class")


def readable_curves(results: Results) -> list[RocCurve]:
    """ROC curves of the classes that have an AUROC: a curve on a few cases would mislead."""
    pooled = results.final.pooled
    known = {item.name for item in pooled.classes if item.auroc.value is not None} if pooled else set()
    return [curve for curve in results.final.roc if curve.name in known]


def roc(curves: Sequence[RocCurve], metrics: Metrics) -> str:
    """ROC curve of each class against the rest; with more than 8 classes only the lowest 8 are named."""
    areas = {item.name: item.auroc.value for item in metrics.classes}
    figure, axes = svg.new_figure(SMALL[0], 3.6)
    axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    ranked = sorted(curves, key=lambda curve: areas.get(curve.name) or 0.0)
    named = {curve.name for curve in ranked[:8]}
    for curve, (colour, line) in zip(curves, svg.cycle_colours(len(curves)), strict=True):
        area = areas.get(curve.name)
        label = f"{svg.short(curve.name, 18)}  {area:.3f}" if area is not None else svg.short(curve.name, 18)
        axes.plot(
            curve.false_positive_rate,
            curve.true_positive_rate,
            color=colour,
            linestyle=line,
            label=label if curve.name in named else "_hidden",
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="1 − specificity", ylabel="sensitivity")
    _percent_axis(axes, "both")
    axes.legend(loc="lower right", title="AUROC", title_fontsize=8, alignment="right")
    return svg.to_svg(figure, "ROC curves, one for each class against the rest")


def reliability(curves: Sequence[ReliabilityCurve]) -> str:
    """Predicted against observed for each class, with intervals; on the dashed line the model means what it says."""
    figure, axes = svg.new_figure(SMALL[0], 3.6)
    axes.plot([0, 1], [0, 1], color=svg.MUTED, linewidth=0.8, linestyle=(0, (3, 3)))
    for number, (one, (colour, line)) in enumerate(zip(curves, svg.cycle_colours(len(curves)), strict=True)):
        if not one.points:
            continue
        x, y = [p.predicted for p in one.points], [p.observed.value or 0.0 for p in one.points]
        label = svg.short(one.name, 18) if number < 8 else "_hidden"
        axes.plot(x, y, color=colour, linestyle=line, marker="o", markersize=3.5, linewidth=1.4, label=label)
        axes.vlines(x, [p.observed.low or 0.0 for p in one.points], [p.observed.high or 0.0 for p in one.points],
                    color=colour, linewidth=0.9, alpha=0.7)  # fmt: skip
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="probability given by the model", ylabel="share that were of the class")
    _percent_axis(axes, "both")
    axes.legend(loc="upper left")
    return svg.to_svg(figure, "Reliability: predicted probability against the share that were of the class")


def curve(course: Course, measure: Measure, label: str, *, share: bool, central: Estimate | None = None) -> str:
    """A measure over rounds: of all hospitals with its interval, and of each; dashed, what ``central`` training reached."""
    figure, axes = svg.new_figure(*SMALL)
    _each_hospital(axes, course, measure)
    pooled = course.pooled(measure)
    bounded = [(x, e) for x, e in pooled if e.low is not None and e.high is not None]
    if bounded:
        lows, highs = [e.low or 0.0 for _, e in bounded], [e.high or 0.0 for _, e in bounded]
        axes.fill_between([x for x, _ in bounded], lows, highs, color=svg.FEDERATED, alpha=0.16, linewidth=0, zorder=2)
    if len(bounded) == 1:
        axes.vlines(bounded[0][0], lows, highs, color=svg.FEDERATED, alpha=0.5, zorder=2)
    values = [estimate.value or 0.0 for _, estimate in pooled]
    axes.plot([x for x, _ in pooled], values, color=svg.FEDERATED, marker=_marker(pooled), markersize=4, zorder=3)
    if central is not None and central.value is not None:
        axes.axhline(central.value, color=svg.CENTRAL, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set(xlabel="rounds of training", ylabel=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if share:
        low = axes.get_ylim()[0]
        axes.set_ylim(max(0.0, min(low, 0.5)), 1.0)
        _percent_axis(axes, "y")
    else:
        axes.set_ylim(bottom=0.0)
    return svg.to_svg(figure, f"{label} over the rounds, all hospitals together and each alone")


def how_hospitals(course: Course) -> str:
    """How ``curve`` shows single hospitals, in words."""
    if len(course.sites) <= MOST_LINES:
        return "Thin: each hospital."
    return "Grey: the middle half of the hospitals, and all but a tenth above and below."


def _each_hospital(axes: Axes, course: Course, measure: Measure) -> None:
    """A thin line for each; for more than ``MOST_LINES`` of them, which nobody could follow, how they spread."""
    points = sorted(course.points[measure].items())
    if len(course.sites) > MOST_LINES:
        spread = [(x, np.percentile([*one.sites.values()], SPREAD)) for x, one in points if one.sites]
        for outer in range(2) if spread else ():
            lows, highs = [q[outer] for _, q in spread], [q[-1 - outer] for _, q in spread]
            axes.fill_between([x for x, _ in spread], lows, highs, color=svg.GONE, alpha=0.35, linewidth=0, zorder=1)
        return
    faint = min(1.0, 12 / (len(course.sites) or 1))
    for site in course.sites:
        line = [(x, one.sites[site]) for x, one in points if site in one.sites]
        x, y = [x for x, _ in line], [value for _, value in line]
        axes.plot(x, y, color=svg.GONE, alpha=faint, linewidth=0.8, marker=_marker(line), markersize=2.5, zorder=1)


def hospitals(results: Results) -> str:
    """Bars of accuracy for each hospital: trained alone, federated, and central where compared."""
    models = [m for m in MODELS if m[0] == "federated" or m[0] in results.comparisons]
    rows = [("all hospitals", [pooled_accuracy(results, key) for key, _, _ in models])]
    rows += [(item.site, [own_accuracy(results, key, item.site) for key, _, _ in models]) for item in results.sites]
    thick = 0.8 / len(models)
    figure, axes = svg.new_figure(
        WIDE, 0.75 + len(rows) * (_row(rows, 0.16, 0.08) + _row(rows, 0.17, 0.09) * len(models))
    )
    for row, (_, estimates) in enumerate(rows):
        for place, (estimate, (_, _, colour)) in enumerate(zip(estimates, models, strict=True)):
            _bar(axes, row - 0.4 + (place + 0.5) * thick, estimate, colour, thick)
    axes.axhline(0.5, color=svg.MUTED, linewidth=0.7)
    axes.set_yticks(range(len(rows)), [svg.short(name) for name, _ in rows])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.4, -0.6), xlabel="accuracy on held-out patients")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _percent_axis(axes, "x")
    handles = [Rectangle((0, 0), 1, 1, color=colour, label=label) for _, label, colour in models]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1, handleheight=1)
    return svg.to_svg(figure, "Accuracy of each hospital, with 95 % intervals")


def privacy(results: Results) -> str:
    """Bars of the epsilon that each hospital was charged, against the study's."""
    limit = results.privacy.epsilon or 0.0
    figure, axes = svg.new_figure(WIDE, 0.8 + _row(results.sites, 0.27, 0.18) * len(results.sites))
    widest = max([limit, *(site.epsilon or 0.0 for site in results.sites)]) or 1.0
    for row, site in enumerate(results.sites):
        if site.epsilon is None:
            axes.text(0.008 * widest, row, "not released", va="center", color=svg.MUTED, fontsize=8)
            continue
        over = limit > 0 and site.epsilon > limit * (1 + 1e-6)
        axes.barh(row, site.epsilon, height=0.62, color=svg.LATE if over else svg.FEDERATED)
        inside = site.epsilon > 0.2 * widest
        x = site.epsilon + (-0.01 if inside else 0.008) * widest
        ink = svg.PAPER if inside else svg.INK
        label = words.epsilon(site.epsilon)
        axes.text(x, row, label, va="center", ha="right" if inside else "left", color=ink, fontsize=8)
    if limit > 0:
        axes.axvline(limit, color=svg.INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"study's ε = {words.figure(limit)}",
            (limit, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
    axes.set_yticks(range(len(results.sites)), [svg.short(site.site) for site in results.sites])
    axes.set(xlim=(0, widest * 1.12), ylim=(len(results.sites) - 0.5, -0.6), xlabel="ε charged by this study")
    axes.tick_params(axis="y", length=0)
    return svg.to_svg(figure, "Privacy charged at each hospital, against the study's epsilon")


def participation(course: Course) -> str:
    """A strip for each hospital: what became of it in every round."""
    sites, total = course.sites, len(course.rounds)
    figure, axes = svg.new_figure(WIDE, 0.62 + _row(sites, 0.24, 0.16) * len(sites))
    gap = 0.06 if total <= 40 else 0.0
    boxes: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for row, site in enumerate(sites):
        for start, stop, value in _runs([one.get(site, "absent") for one in course.status], joined=not gap):
            boxes[value].append((start + gap, stop - gap, row))
            if gap and STATUS_MARKS[value]:
                ink = svg.PAPER if STATUS_COLOURS[value] == svg.BAD else svg.INK
                axes.text(start + 0.5, row, STATUS_MARKS[value], ha="center", va="center", color=ink, fontsize=7)
    for value, found in boxes.items():  # one path for all boxes of a colour: a patch for each takes ten times as long
        corners = [[(x, y - 0.4), (x, y + 0.4), (end, y + 0.4), (end, y - 0.4), (x, y - 0.4)] for x, end, y in found]
        path = Path.make_compound_path(*(Path(four, closed=True) for four in corners))
        axes.add_artist(PathPatch(path, facecolor=STATUS_COLOURS[value], edgecolor="none"))
    axes.set(xlim=(0, max(total, 8)), ylim=(len(sites) - 0.45, -0.55))
    axes.set_xlabel("round", loc="left")
    axes.set_yticks(range(len(sites)), [svg.short(site) for site in sites])
    shown = sorted({0, *range(step - 1, total, step)}) if (step := _step(total)) else []
    axes.set_xticks([index + 0.5 for index in shown], [str(course.rounds[index]) for index in shown])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return svg.to_svg(figure, "Participation: a row for each hospital, a column for each round")


def has_curve(course: Course) -> bool:
    """Whether any round has an accuracy to draw."""
    return bool(course.points["accuracy"])


def _marker(line: Sequence[object]) -> str:
    """Few points are marked, many are not."""
    return "o" if len(line) <= 12 else ""


def pooled_accuracy(results: Results, key: str) -> Estimate | float | None:
    """Accuracy over everybody's patients; for local models the mean over them, without an interval."""
    if key == "federated":
        return results.final.pooled.accuracy if results.final.pooled else None
    comparison = results.comparisons["local" if key == "local" else "central"]
    if key == "central":
        return comparison.pooled.accuracy if comparison.pooled else None
    return mean_local(results)


def mean_local(results: Results) -> float | None:
    """Mean accuracy of the local models, each on everybody's held-out patients."""
    local = results.comparisons.get("local")
    values = [m.accuracy.value for m in local.pooled_per_site.values()] if local else []
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def own_accuracy(results: Results, key: str, site: str) -> Estimate | None:
    """Accuracy on the hospital's own held-out patients."""
    source = results.final.per_site if key == "federated" else None
    if source is None:
        source = results.comparisons["local" if key == "local" else "central"].per_site
    return source[site].accuracy if site in source else None


def _bar(axes: Axes, y: float, estimate: Estimate | float | None, colour: str, thick: float) -> None:
    """One bar with its interval, or the words that stand for it."""
    value = estimate if isinstance(estimate, float) or estimate is None else estimate.value
    if value is None:
        known = None if isinstance(estimate, float) else estimate
        note = ": ".join(part for part in (words.basis(known), words.value(known)) if part) if known else "not released"
        axes.text(0.006, y, note, va="center", color=svg.MUTED, fontsize=7)
        return
    axes.barh(y, value, height=thick * 0.86, color=colour, zorder=2)
    if not isinstance(estimate, float) and estimate is not None and estimate.low is not None:
        axes.hlines(y, estimate.low, estimate.high or 1.0, color=svg.INK, linewidth=1, zorder=3)


def _runs(values: Sequence[str], *, joined: bool) -> list[tuple[int, int, str]]:
    """(start, stop, value) of each stretch of equal values, or of each value."""
    stretches: list[tuple[int, int, str]] = []
    for index, value in enumerate(values):
        if joined and stretches and stretches[-1][2] == value:
            stretches[-1] = (stretches[-1][0], index + 1, value)
        else:
            stretches.append((index, index + 1, value))
    return stretches


def _row(rows: Sequence[object], roomy: float, tight: float) -> float:
    """Height in inches: roomy for up to 15 rows, tight for more."""
    return roomy if len(rows) <= 15 else tight


def _step(total: int) -> int:
    """Distance of round labels: 1, 2, 5, 10 ... so that there are about 20 at most."""
    return next((step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if total <= 20 * step), 1000)


def _percent_axis(axes: Axes, which: str) -> None:
    if which in ("x", "both"):
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\u00a0%"))
    if which in ("y", "both"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\u00a0%"))
