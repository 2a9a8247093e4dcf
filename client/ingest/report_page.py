"""``ingest-report.html``: one self-contained page about a cohort, for the people of the hospital.

The page loads nothing and has no script; its content security policy forbids the rest. It shows pixels of
patients in its contact sheet, so it stays where the cohort stays, sealed if that is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.ingest.advice import ADVICE
from client.ingest.contact_sheet import Tile, contact_sheet
from client.ingest.records import Reason
from client.ingest.report import IngestReport, count, explain, label_problems
from client.ingest.store import Planes
from common.pages import page_environment
from common.study import Input, Study

REPORT_JSON, REPORT_HTML = "ingest-report.json", "ingest-report.html"
FEW_PATIENTS = 5
"""A class with fewer patients on a side of the split is pointed at."""
READING = {
    "axial": "The patient's right is on the left of the picture, the front at the top.",
    "sagittal": "The head is at the top, the front of the body on the left.",
    "coronal": "The head is at the top, the patient's right on the left of the picture.",
}
HU_SHOWN = (-1200.0, 2000.0)
_WIDTH, _HEIGHT = 640, 150


@dataclass(frozen=True)
class RefusedRow:
    """Files left out for one reason. ``advice`` is empty where nothing is to be done."""

    code: str
    files: int
    explanation: str
    advice: str
    details: tuple[tuple[str, int], ...]


def report_files(
    report: IngestReport, study: Study, examples: NDArray[np.void], patients: NDArray[np.void], planes: Planes
) -> dict[str, bytes]:
    """The report's files by name, for ``CohortWriter.commit``."""
    tiles = contact_sheet(examples, patients, planes, study.task.classes, study.cohort_digest)
    return {REPORT_JSON: report.to_json().encode(), REPORT_HTML: render_page(report, study, tiles).encode()}


def render_page(report: IngestReport, study: Study, tiles: Sequence[Tile]) -> str:
    """The page as text."""
    environment = page_environment("client.ingest")
    environment.globals.update(count=count, percent=percent)
    rows = refused_rows(report)
    return environment.get_template("ingest_report.html.j2").render(
        report=report,
        study=study,
        attention=attention(report),
        label_problems=label_problems(report.labels),
        to_look_at=[row for row in rows if row.advice],
        expected=[row for row in rows if not row.advice],
        sheet=_sheet(tiles, study),
        reading=READING[study.input.view],
        settings=settings_in_words(study.input),
        most=max((one.patients for one in report.classes.values()), default=0) or 1,
        values=values_shown(report.distributions),
        hu=hu_figure(report.distributions, study.input),
    )


def refused_rows(report: IngestReport) -> list[RefusedRow]:
    """The reasons for which files were left out, the most frequent first."""
    return [
        RefusedRow(
            code=code,
            files=files,
            explanation=explain(code),
            advice=ADVICE.get(Reason(code), "") if code in set(Reason) else "",
            details=tuple(report.files.details.get(code, ())),
        )
        for code, files in sorted(report.files.refused.items(), key=lambda item: (-item[1], item[0]))
    ]


def attention(report: IngestReport) -> list[str]:
    """What a careful person would look into before the cohort is used, a sentence each."""
    found = []
    for name, one in report.classes.items():
        training = one.patients - one.held_out
        if not one.patients:
            found.append(f"No patient has the class '{name}'.")
        elif min(training, one.held_out) < FEW_PATIENTS:
            found.append(f"Few patients of class '{name}': {training} to train on, {one.held_out} held out.")
    refused = sum(row.files for row in refused_rows(report) if row.advice)
    if refused:
        found.append(
            f"{count(refused, 'file')} ({percent(refused, report.files.total)}) left out for reasons that may be worth a look."
        )
    if (conflicting := report.labels.get("conflicting", {}).get("count", 0)) > 0:
        found.append(f"{count(conflicting, 'id')} with two different classes left out.")
    if (unknown := report.labels.get("unknown_classes", {}).get("rows", 0)) > 0:
        found.append(f"{count(unknown, 'row')} of the label table with a class that the study does not have.")
    return found


def percent(part: float, whole: float) -> str:
    """``12 %``; below one ``< 1 %``."""
    share = 100 * part / whole if whole else 0.0
    return "< 1 %" if 0 < share < 1 else f"{share:.0f} %"


def settings_in_words(wanted: Input) -> list[tuple[str, str]]:
    """What the study makes of each volume, as pairs of heading and text."""
    windows = ", ".join(f"{window.low:g} to {window.high:g} HU" for window in wanted.windows)
    distance = f"{wanted.slice_spacing_mm:g} mm apart" if wanted.slice_spacing_mm else "slices as acquired"
    settings = [
        ("View", f"{wanted.view}, {distance}, {wanted.planes or 'all'} planes of each volume"),
        ("Pixels", f"{wanted.size} x {wanted.size} of {wanted.spacing_mm:g} mm"),
        ("Window" if len(wanted.windows) == 1 else "Windows", windows),
    ]
    if wanted.kernels or wanted.thickness_mm:
        kernels = f"kernels {', '.join(wanted.kernels)}" if wanted.kernels else ""
        thickness = f"thickness near {wanted.thickness_mm:g} mm" if wanted.thickness_mm else ""
        settings.append(("Preferred", "; ".join(text for text in (kernels, thickness) if text)))
    if wanted.denoise != "none":
        settings.append(("Noise", wanted.denoise))
    if wanted.normalise != "none":
        settings.append(("Normalised", wanted.normalise))
    return settings


def _sheet(tiles: Sequence[Tile], study: Study) -> list[tuple[str, list[tuple[Tile, str]]]]:
    """Tiles by class, each with its data URI."""
    return [
        (name, [(tile, base64.b64encode(tile.png).decode()) for tile in tiles if tile.label == name])
        for name in study.task.classes
    ]


def values_shown(distributions: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """Of each distribution its heading, and value, number and share of the largest in percent."""
    headings = {
        "vendor": "Vendor",
        "kernel": "Kernel",
        "spacing_mm": "Pixel spacing, mm",
        "slice_spacing_mm": "Slice spacing, mm",
        "thickness_mm": "Slice thickness, mm",
    }
    found = []
    for key, heading in headings.items():
        counts = distributions.get(key, {})
        largest = max(counts.values(), default=1)
        found.append((heading, [(value, number, round(100 * number / largest)) for value, number in counts.items()]))
    return found


def hu_figure(distributions: Mapping[str, Any], wanted: Input) -> dict[str, Any] | None:
    """The curve of voxels by HU (square root scale), the study's windows and an axis, in SVG coordinates."""
    edges, counts = (np.array(distributions.get("hu", {}).get(key, []), float) for key in ("edges", "counts"))
    low, high = HU_SHOWN
    if len(edges) != len(counts) + 1 or not counts.sum():
        return None
    shown = (edges[:-1] >= low) & (edges[1:] <= high)
    density = np.sqrt(counts[shown] / np.diff(edges)[shown])
    if not len(density) or not density.max():
        return None

    def x(value: float) -> float:
        return round(float(np.clip((value - low) / (high - low), 0, 1)) * _WIDTH, 1)

    heights = _HEIGHT * (1 - density / density.max())
    points = [f"{x(edge)},{height:.1f}" for edge, height in zip(edges[:-1][shown], heights, strict=True)]
    start, end = x(edges[:-1][shown][0]), x(edges[:-1][shown][-1])
    return {
        "points": f"{start},{_HEIGHT} {' '.join(points)} {end},{_HEIGHT}",
        "windows": [(x(window.low), round(x(window.high) - x(window.low), 1)) for window in wanted.windows],
        "ticks": [(x(value), f"{value:g}") for value in range(-1000, 2001, 500)],
        "width": _WIDTH,
        "height": _HEIGHT,
    }
