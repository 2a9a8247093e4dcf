"""How much of a map lies on the fractured vertebra: the phantom knows where that is.

A map that points anywhere has the share that the vertebra's area has. Two controls go with the model: the same
network with random weights, and Grad-CAM in its first form, which averages the gradient over the map.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import nn

from client.ingest.cohort import held_out_fold
from client.ingest.planes import PlanePlan
from client.ingest.select import fold_of
from client.prediction.maps import Maps, cam_layer, grad_cam, integrated_gradients
from client.prediction.source import NewStudy, read_new_study
from client.training.evaluate import predict
from client.training.views import to_input
from common.models.saved import load_saved
from common.models.weights import initial_model
from common.study import Study
from simulations.phantom.dicom import table_height
from simulations.phantom.hospitals import MANIFEST, Request, enrol
from simulations.phantom.patient import Patient, examine

MARGIN_MM = np.array([2.0, 6.0, 5.0])
"""Added to the half axes of the body: to the sides, to front and back (where fragments go), up and down."""


class _Alone:
    """One study as examples."""

    def __init__(self, new: NewStudy) -> None:
        self._pixels = new.pixels
        self.labels = np.zeros(len(self._pixels), np.int64)

    def pixels(self, indices: NDArray[np.intp]) -> NDArray[np.uint8]:
        """uint8 [n, channels, size, size]."""
        return self._pixels[indices]


def measure(study: Study, sites: Path, model: Path) -> dict[str, Any]:
    """Over the held-out patients with a fracture that the model calls right: mean share of each map, and of the area."""
    content = json.loads((sites / MANIFEST).read_text())
    people = enrol(Request(**content | {"counts": tuple(content["counts"])}))
    trained = load_saved(model, study).network
    untrained = initial_model(study, 0).eval()
    methods: dict[str, Callable[[NDArray[np.uint8], NDArray[np.intp]], Maps]] = {
        "grad-cam": lambda pixels, said: grad_cam(trained, pixels, said),
        "integrated gradients": lambda pixels, said: integrated_gradients(trained, pixels, said),
        "grad-cam, averaged gradient": lambda pixels, said: _averaged(trained, pixels, said),
        "grad-cam, random weights": lambda pixels, said: grad_cam(untrained, pixels, said),
        "integrated gradients, random weights": lambda pixels, said: integrated_gradients(untrained, pixels, said),
    }
    found: dict[str, list[float]] = defaultdict(list)
    held_out = held_out_fold(study)
    for person in people:
        if person.label == "normal" or fold_of(study.evaluation, person.patient_id) != held_out:
            continue
        folder = sites / f"hospital-{person.site + 1}" / "dicom" / person.patient_id
        new = read_new_study(folder, study, lambda _done, _total: None)
        pixels = new.pixels
        said = predict(trained, _Alone(new), np.arange(len(pixels))).mean(axis=0).argmax()
        if study.task.classes[said] != person.label:
            continue
        mask = on_vertebra(person, new.chosen.plan)
        found["area"].append(float(mask.mean()))
        for name, method in methods.items():
            found[name].append(share_within(method(pixels, np.full(len(pixels), said)), mask))
    means = {name: round(float(np.nanmean(values)), 3) for name, values in found.items()}
    empty = {name: int(np.isnan(values).sum()) for name, values in found.items()}
    return {"patients": len(found["area"]), "share": means, "maps without any evidence": empty}


def on_vertebra(person: Patient, plan: PlanePlan) -> NDArray[np.bool_]:
    """Which pixels of the examples' centre planes lie on the index vertebra, [n, size, size]."""
    _, spine = examine(person)
    vertebra = spine.vertebrae[spine.index]
    count = np.arange(plan.size)[:, None]
    rows, columns = count * plan.row_step, count * plan.column_step
    points = plan.origins[plan.examples[:, 1]][:, None, None] + rows[:, None] + columns[None]
    origin = np.array([0.0, -150.0, table_height(person)])
    own = (points - origin - vertebra.centre) @ vertebra.turn
    half = np.array([vertebra.half_width, vertebra.half_depth, vertebra.height / 2]) + MARGIN_MM
    inside: NDArray[np.bool_] = (np.abs(own) <= half).all(axis=-1)
    return inside


def share_within(maps: Maps, mask: NDArray[np.bool_]) -> float:
    """The part of what speaks for the class that lies within ``mask``; NaN where nothing speaks for it."""
    positive = np.maximum(maps, 0)
    total = float(positive.sum())
    return float(positive[mask].sum()) / total if total > 0 else float("nan")


def _averaged(network: nn.Module, pixels: NDArray[np.uint8], said: NDArray[np.intp]) -> Maps:
    """Grad-CAM as first published."""
    size = pixels.shape[-1]
    explainer = LayerGradCam(network, cam_layer(network, size))
    coarse = explainer.attribute(to_input(pixels), target=int(said[0]), relu_attributions=True)
    maps: Maps = F.interpolate(coarse, (size, size), mode="bilinear")[:, 0].detach().numpy()
    return maps
