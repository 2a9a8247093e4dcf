"""A picture of what ``private-epsilon`` and ``private-trainable`` measured: AUROC over epsilon, and over what is trained."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from common import svg
from common.errors import DataError
from common.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LINES = (("private", "federated", svg.FEDERATED), ("alone", "mean hospital alone", svg.LOCAL))


def draw(epsilon: Path, trainable: Path, out: Path) -> None:
    """Write the picture of two measurements (JSON files) to ``out`` (PNG). Raises DataError for a file that is not one."""
    over_epsilon, over_trainable = _measured(epsilon, _LINES), _measured(trainable, _LINES[:1])
    with svg.style():
        figure = Figure(figsize=(7.2, 2.9), dpi=200, layout="constrained", facecolor=svg.PAPER)
        left, right = figure.subplots(1, 2, sharey=True)
        _curves(left, over_epsilon)
        _bars(right, over_trainable)
        left.set(ylabel="macro AUROC on held-out patients", ylim=(0.5, 0.8))
        left.legend(loc="lower right")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", metadata={"Software": None})
    write_atomic(out, picture.getvalue(), mode=0o644)


def _curves(axes: Axes, found: Mapping[str, Any]) -> None:
    """A line each over epsilon, with the standard deviation over seeds where there are several."""
    names = sorted(found, key=float)
    for key, label, colour in _LINES:
        spreads = [found[name]["summary"][f"{key}_auroc"] for name in names]
        means, deviations = [s["mean"] for s in spreads], [s["sd"] or 0.0 for s in spreads]
        axes.errorbar(
            [float(n) for n in names], means, deviations, fmt="o-", color=colour, label=label, markersize=4, capsize=2.5
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks([float(n) for n in names], names)
    axes.minorticks_off()
    axes.set(title="over epsilon", xlabel="epsilon of a patient at each hospital")
    axes.yaxis.grid(visible=True)


def _bars(axes: Axes, found: Mapping[str, Any]) -> None:
    """Bars for each part of the network that is trained, from chance upwards; alone beside it where it was measured."""
    lines = [line for line in _LINES if all(f"{line[0]}_auroc" in measured["summary"] for measured in found.values())]
    for number, (key, _, colour) in enumerate(lines):
        spreads = [measured["summary"][f"{key}_auroc"] for measured in found.values()]
        places = [index + 0.38 * (number - (len(lines) - 1) / 2) for index in range(len(spreads))]
        bars = axes.bar(
            places, [s["mean"] for s in spreads], 0.36, color=colour, yerr=[s["sd"] or 0.0 for s in spreads]
        )
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=7)
    axes.set_xticks(range(len(found)), [name.replace("+", " + ") for name in found])
    axes.set(title="over what is trained, in a shorter study", xlabel="trained part of the network")
    axes.yaxis.grid(visible=True)
    axes.set_axisbelow(True)


def _measured(path: Path, needed: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for measured in found.values():
            for key, _, _ in needed:
                float(measured["summary"][f"{key}_auroc"]["mean"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"'{path}' is not what 'private-epsilon' or 'private-trainable' prints ({error!r})",
            "Give a file into which one of them was written",
        ) from None
    measurement: dict[str, Any] = found
    return measurement
