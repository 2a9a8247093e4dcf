"""Matplotlib figures as inline SVG that takes its fonts and colours from the page.

Figures are made with the object interface and rendered by the SVG backend, so there is no global
state and no display. Colours below are stand-ins: in the SVG they become CSS variables, so that one
figure serves light, dark and print. Styles become presentation attributes, so that a figure may stand in a page
whose content security policy forbids inline styles.
"""

from __future__ import annotations

import html
import io
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes

INK, MUTED, LINE, PAPER = "#1a2a3b", "#6a7684", "#d4dae1", "#fdfefd"
LOCAL, FEDERATED, CENTRAL = "#c98a1a", "#0b6fae", "#5d6772"
GOOD, LATE, BAD, GONE = "#2f8f6b", "#e0a92e", "#c2452d", "#a9b1ba"
CLASSES = (FEDERATED, "#d1602a", "#238a68", "#b3619b", "#8a6d1f", "#3fa0cf", "#7a5bb0", "#555f69")

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    LINE: "line",
    PAPER: "paper",
    LOCAL: "local",
    FEDERATED: "federated",
    CENTRAL: "central",
    GOOD: "good",
    LATE: "late",
    BAD: "bad",
    GONE: "gone",
}
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedct",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.parse_math": False,  # a class or a site may be named with a dollar sign
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.grid": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_GROUP_ID = re.compile(r' id="[A-Za-z0-9.]+_\d+"')
_SHARED_STYLE = re.compile(r"<defs>\s*<style [^>]*>[^<]*</style>\s*</defs>")
_STYLED = re.compile(r'(<[^<>]*?) style="([^"<>]*)"')
_FONT = re.compile(r"'DejaVu Sans'(?:, [^;\"]*)?")
_ROOT = re.compile(r'<svg [^>]*?viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>')


def style() -> AbstractContextManager[None]:
    """The context in which figures are made and rendered."""
    return mpl.rc_context(_SETTINGS)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of this size in inches (96 CSS pixels each), with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def to_svg(figure: Figure, label: str) -> str:
    """The figure as one ``<svg>`` element with the accessible name ``label``. Call it within ``style``."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    text = _GROUP_ID.sub("", text[text.index("<svg") :])
    text = _FONT.sub("var(--font)", text)
    text = _STYLED.sub(_attributes, _SHARED_STYLE.sub("", text, count=1))
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    return _ROOT.sub(lambda found: _opening(found, label), text, count=1).strip()


def _opening(found: re.Match[str], label: str) -> str:
    width, height = float(found[1]), float(found[2])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
        f'aria-label="{html.escape(label, quote=True)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width * 4 / 3:.0f}" height="{height * 4 / 3:.0f}" preserveAspectRatio="xMinYMin meet" '
        'stroke-linejoin="round" stroke-linecap="butt">'  # what matplotlib's own style element says
    )


def _attributes(found: re.Match[str]) -> str:
    """A tag's ``style`` as attributes; matplotlib writes nothing there that SVG does not know as one."""
    pairs = (part.split(":", 1) for part in found[2].split(";") if part.strip())
    return found[1] + "".join(f' {name.strip()}="{value.strip()}"' for name, value in pairs)


def short(name: str, length: int = 26) -> str:
    """A name cut to ``length`` characters for an axis."""
    return name if len(name) <= length else name[: length - 1] + "…"


def cycle_colours(count: int) -> Iterator[tuple[str, str]]:
    """``count`` pairs of colour and line style that differ for up to 32 classes."""
    styles = ("-", "--", ":", "-.")
    for index in range(count):
        yield CLASSES[index % len(CLASSES)], styles[(index // len(CLASSES)) % len(styles)]
