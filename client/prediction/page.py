"""``report.html`` of one CT: the values in plain words, the pictures, and what it all rests on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from client.ingest.records import EXPLANATIONS, Reason
from client.ingest.report_page import READING
from client.prediction.pictures import data_uri, overlaid
from client.prediction.predict import Answer
from client.prediction.source import NewStudy
from client.prediction.write import WARNING
from common.models.saved import SavedModel
from common.pages import page_environment
from common.study import Study
from common.version import VERSION

SHOWN = 12
"""Pictures on a page; a study of slices has hundreds."""


@dataclass(frozen=True)
class Picture:
    """A picture that the page holds in itself, and what stands under it."""

    uri: str
    caption: str


def render_page(
    new: NewStudy, study: Study, model: SavedModel, answer: Answer, reliability: list[str], made: datetime
) -> str:
    """The page as text. ``reliability``: what is known of how far such values can be trusted, a sentence each."""
    shown = _shown(answer)
    return (
        page_environment("client.prediction")
        .get_template("prediction.html.j2")
        .render(
            study=study,
            warning=WARNING,
            words=in_words(answer),
            values=list(zip(answer.classes, answer.values, strict=True)),
            reliability=reliability,
            reading=READING[study.input.view],
            pictures=[_picture(new, answer, index) for index in shown],
            hidden=len(answer.examples) - len(shown),
            facts=_facts(new, study, model, made),
            left_out=[(EXPLANATIONS[Reason(code)], files) for code, files in new.files.refused.items()],
        )
    )


def in_words(answer: Answer) -> str:
    """The answer in a sentence or two."""
    name, value, planes = answer.classes[answer.said], answer.values[answer.said], len(answer.examples)
    if answer.by_slice:
        return (
            f"Of {planes} slices, the model finds '{name}' likeliest on {round(value * planes)} ({100 * value:.0f} %)."
        )
    rest = [
        f"{100 * other:.0f} % to '{label}'"
        for label, other in zip(answer.classes, answer.values, strict=True)
        if label != name
    ]
    return (
        f"The model finds '{name}' likeliest: from {planes} planes together it gives it {100 * value:.0f} %, "
        f"and {' and '.join(rest)}."
    )


def _shown(answer: Answer) -> list[int]:
    """The planes that say the answer loudest, in their order in the body."""
    loudest = np.argsort(-answer.examples[:, answer.said], kind="stable")[:SHOWN]
    return sorted(int(index) for index in loudest)


def _picture(new: NewStudy, answer: Answer, index: int) -> Picture:
    target = answer.targets[index]
    caption = f"Plane {index + 1}: {answer.classes[target]} {answer.examples[index, target]:.2f}"
    return Picture(data_uri(overlaid(new.centres[index], answer.maps[index])), caption)


def _facts(new: NewStudy, study: Study, model: SavedModel, made: datetime) -> list[tuple[str, str]]:
    series, wanted = new.chosen.series, study.input
    slices, rows, columns = series.shape
    return [
        (
            "CT",
            f"{slices} slices of {rows} x {columns}, {series.slice_spacing:.2f} mm apart; {new.files.accepted} of {new.files.total} files used",
        ),
        ("Chosen by", f"{new.chosen.decided_by}, of {new.chosen.rivals + 1} series"),
        ("Corrected", "; ".join(series.notes) or "nothing"),
        (
            "Shown to it",
            f"{len(new.centres)} {wanted.view} planes of {wanted.size} x {wanted.size} pixels of {wanted.spacing_mm:g} mm",
        ),
        ("Network", f"{study.model.name}, fedct {VERSION}"),
        ("Study", study.digest),
        ("Model", model.sha256),
        ("Made", made.strftime("%Y-%m-%d %H:%M UTC")),
    ]
