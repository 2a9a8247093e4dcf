"""What a model looked at in a site's own held-out patients: a page that shows hits and misses of every class.

It shows pixels of patients, so it stays at the site. Which patients are shown follows from the cohort alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from client.ingest.cohort import Cohort
from client.ingest.report_page import READING
from client.prediction.maps import Maps, grad_cam, integrated_gradients, shares
from client.prediction.pictures import data_uri, overlaid, plain, signed
from client.training.evaluate import judge, predict
from common.models.saved import SavedModel
from common.pages import page_environment
from common.study import NEIGHBOURS, Study

OF_EACH = 3
"""Examples shown of each class that were called right, and that were called wrong."""


@dataclass(frozen=True)
class Tile:
    """One held-out example: what it is, what was said, and its three pictures as data URIs.

    ``pseudonym``: the first six hex digits of the patient's. ``probability``: that of the class said.
    """

    pseudonym: str
    truth: str
    said: str
    probability: float
    plane: str
    cam: str
    gradients: str


def make_gallery(cohort: Cohort, study: Study, model: SavedModel) -> dict[str, tuple[list[Tile], list[Tile]]]:
    """Of each class the tiles that were called right, and those that were called wrong.

    One example a patient, the middle of those it has; the surest first. The maps are for the class *said*: of the
    patient where patients are labelled, else of the example.
    """
    patients = cohort.holdout_patients()
    if not patients:
        return {name: ([], []) for name in study.task.classes}
    middles = np.array([indices[len(indices) // 2] for indices in patients])
    if study.task.label_level == "patient":
        probabilities = judge(model.network, cohort, patients, study)
    else:
        probabilities = predict(model.network, cohort, middles)
    said, truth = probabilities.argmax(axis=1), cohort.labels[middles]
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    chosen: list[int] = []
    for index in range(len(study.task.classes)):
        for right in (True, False):
            chosen += [i for i in order if truth[i] == index and (said[i] == truth[i]) == right][:OF_EACH]
    tiles = _tiles(cohort, study, model, middles[chosen], probabilities[chosen])
    return {
        name: ([t for t in tiles if t.truth == name == t.said], [t for t in tiles if t.truth == name != t.said])
        for name in study.task.classes
    }


def _tiles(
    cohort: Cohort, study: Study, model: SavedModel, examples: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> list[Tile]:
    pixels, said = cohort.pixels(examples), probabilities.argmax(axis=1)
    cams = _each_by_itself(grad_cam(model.network, pixels, said))
    gradients = integrated_gradients(model.network, pixels, said)
    planes = pixels[:, NEIGHBOURS // 2]  # the centre plane in the first window
    names = study.task.classes
    return [
        Tile(
            pseudonym=bytes(cohort.patients["pseudonym"][cohort.examples["patient"][example]]).hex()[:6],
            truth=names[cohort.labels[example]],
            said=names[said[index]],
            probability=float(probabilities[index].max()),
            plane=data_uri(plain(planes[index])),
            cam=data_uri(overlaid(planes[index], cams[index])),
            gradients=data_uri(signed(planes[index], gradients[index])),
        )
        for index, example in enumerate(examples)
    ]


def _each_by_itself(maps: Maps) -> Maps:
    """Each map on a scale of its own: patients are not compared with one another."""
    return np.stack([shares(one[None])[0] for one in maps])


def render_gallery(
    gallery: dict[str, tuple[list[Tile], list[Tile]]], study: Study, model: SavedModel, held_out: int, made: datetime
) -> str:
    """The page as text. ``held_out``: patients that could have been shown."""
    return (
        page_environment("client.prediction")
        .get_template("gallery.html.j2")
        .render(
            study=study, model=model, gallery=gallery, reading=READING[study.input.view], held_out=held_out, made=made
        )
    )
