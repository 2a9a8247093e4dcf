"""Which series make the cohort: those with a label, one for each labelled patient, study or series."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.ingest.geometry import Series
from client.ingest.planes import PlanePlan, plan_planes
from client.ingest.records import Reason, Skip
from common.study import Study


@dataclass(frozen=True)
class Chosen:
    """A series of the cohort.

    ``labels`` [n]: the class of each of ``plan.examples``. ``ids``: the rows of the label table that it uses.
    """

    series: Series
    plan: PlanePlan
    labels: NDArray[np.int16]
    ids: frozenset[str]


def split_fraction(split_seed: int, patient_id: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the patient: SHA-256 of both."""
    digest = hashlib.sha256(f"{split_seed}:{patient_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(split_seed: int, patient_id: str, holdout: float) -> bool:
    """Whether a patient is kept out of training.

    The same at every site, in every run and however the cohort grows; ``holdout`` (between 0 and 1) is
    the expected share.
    """
    return split_fraction(split_seed, patient_id) < holdout


def choose_series(series: list[Series], labels: dict[str, int], study: Study) -> tuple[list[Chosen], list[Skip]]:
    """Match series with labels and choose among those that share one.

    For labels of patients, studies or series, one series stands for each label: ORIGINAL before
    DERIVED, then most slices, then the thinnest, then by content of its UID. Slice labels use every
    series that they name. The result is ordered by ``split_fraction``, which says nothing of the patient.
    """
    skips: list[Skip] = []
    rivals: dict[tuple[str, ...], list[Chosen]] = defaultdict(list)
    for one in series:
        found = _match(one, labels, study)
        if isinstance(found, Reason):
            skips += [Skip(header.path, found) for header in one.headers]
            continue
        whole = study.task.label_level != "slice"
        rivals[(one.patient_id, *(found.ids if whole else (one.headers[0].path,)))].append(found)
    chosen: list[Chosen] = []
    for group in rivals.values():
        best, *others = sorted(group, key=lambda candidate: _rank(candidate.series))
        chosen.append(best)
        skips += [Skip(header.path, Reason.OTHER_SERIES) for other in others for header in other.series.headers]
    seed = study.evaluation.split_seed
    chosen.sort(key=lambda c: (split_fraction(seed, c.series.patient_id), c.series.headers[0].path))
    return chosen, skips


def _match(series: Series, labels: dict[str, int], study: Study) -> Chosen | Reason:
    """The series with the class of each of its examples; examples without a label are left out."""
    first = series.headers[0]
    if study.task.label_level == "slice":
        ids = [header.sop_uid for header in series.headers]
    else:
        one = {"patient": first.patient_id, "study": first.study_uid, "series": first.series_uid}
        ids = [one[study.task.label_level]]
    if not any(identifier in labels for identifier in ids):
        return Reason.NO_LABEL
    plan = plan_planes(series, study.input)
    if plan is None:
        return Reason.NOT_AXIAL
    of_example = (
        [ids[index] for index in plan.slices] if study.task.label_level == "slice" else ids * len(plan.examples)
    )
    kept = np.array([identifier in labels for identifier in of_example], dtype=bool)
    if not kept.any():
        return Reason.NO_LABEL
    used = [identifier for identifier in of_example if identifier in labels]
    plan = dataclasses.replace(plan, examples=plan.examples[kept], slices=plan.slices[kept])
    return Chosen(series, plan, np.array([labels[i] for i in used], dtype=np.int16), frozenset(used))


def _rank(series: Series) -> tuple[object, ...]:
    """Sort key: the best series first."""
    first = series.headers[0]
    tie = hashlib.sha256(os.fsencode(f"{first.series_uid}\0{first.path}")).hexdigest()
    return (not first.original, -len(series.headers), round(series.slice_spacing, 3), tie)
