"""The spending of a cohort over time, as a figure in the page's own colours."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

from common.svg import BAD, FEDERATED, LINE, new_figure, style, to_svg

if TYPE_CHECKING:
    from client.console.spending import Point


@lru_cache(maxsize=4)
def spending_curve(points: tuple[Point, ...], most: float, label: str, limit: str) -> str:
    """Epsilon after each point as steps, and the limit ``most``; one ``<svg>``. At least two points."""
    times = [date2num(datetime.fromisoformat(point.time)) for point in points]  # type: ignore[no-untyped-call]
    values = [point.epsilon for point in points]
    with style():
        figure, axes = new_figure(10.6, 2.5)
        axes.axhline(most, color=BAD, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate(
            limit, (0.005, most), xycoords=("axes fraction", "data"), xytext=(0, 4), textcoords="offset points"
        )
        axes.fill_between(times, values, step="post", color=FEDERATED, alpha=0.14, linewidth=0)
        axes.plot(times, values, color=FEDERATED, drawstyle="steps-post")
        axes.plot(times[-1:], values[-1:], "o", color=FEDERATED, markersize=4.5)
        locator = AutoDateLocator(minticks=3, maxticks=7)  # type: ignore[no-untyped-call]
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        axes.set_ylim(0, max(most, *values) * 1.16)
        axes.grid(axis="y", color=LINE)
        axes.set_ylabel("epsilon")
        return to_svg(figure, label)
