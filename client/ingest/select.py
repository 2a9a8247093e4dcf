"""Which series make the cohort: those with a label, one for each labelled patient, study or series."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.ingest.geometry import Series
from client.ingest.labels import Labels, series_ids
from client.ingest.planes import PlanePlan, is_axial, plan_planes
from client.ingest.records import Reason, Skip
from common.study import Evaluation, Input, Study

ONLY_SERIES = "only series"
CRITERIA = ("ORIGINAL", "PRIMARY", "axial", "kernel", "thickness", "slices", "lot")
"""What decides among series that share a label, first to last: ImageType (ORIGINAL before DERIVED, PRIMARY
before SECONDARY), slices acquired axially, the study's kernels in their order, a thickness nearest to the
study's (0: the thinnest), most slices, and for series alike in all of this a hash of their UID."""


@dataclass(frozen=True)
class Chosen:
    """A series of the cohort.

    ``labels`` [n]: the class of each of ``plan.examples``. ``ids``: the labels that it uses.
    ``rivals``: how many other series share its label. ``decided_by``: the one of CRITERIA that put it before
    the next best, or ONLY_SERIES.
    """

    series: Series
    plan: PlanePlan
    labels: NDArray[np.int16]
    ids: frozenset[str]
    rivals: int = 0
    decided_by: str = ONLY_SERIES


def split_fraction(split_seed: int, patient_id: str) -> float:
    """A number in [0, 1) that depends on nothing but the seed and the patient: SHA-256 of both."""
    digest = hashlib.sha256(f"{split_seed}:{patient_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def fold_of(split: Evaluation, patient_id: str) -> int:
    """The part of the split that a patient is in, from 1; one part at a time is kept out of training.

    ``folds`` parts of equal expected size, or without folds two: 1 of expected share ``holdout``, 2 the rest.
    The same at every site, in every run and however the cohort grows.
    """
    fraction = split_fraction(split.split_seed, patient_id)
    if split.folds is None:
        return 1 if fraction < split.holdout else 2
    return min(int(fraction * split.folds), split.folds - 1) + 1


def choose_series(series: list[Series], labels: Labels, study: Study) -> tuple[list[Chosen], list[Skip]]:
    """Match series with labels and choose among those that share one.

    For labels of patients, studies or series, one series stands for each label, by the first of CRITERIA
    that tells it from the next best. Slice labels use every series that they name. The result is ordered
    by ``split_fraction``, which says nothing of the patient.
    """
    skips: list[Skip] = []
    rivals: dict[tuple[object, ...], list[Chosen]] = defaultdict(list)
    for one in series:
        found = _match(one, labels, study)
        if isinstance(found, Chosen):
            whole = study.task.label_level != "slice"
            first = one.headers[0]
            rivals[(one.patient_id, *(found.ids if whole else (first.path, first.frame)))].append(found)
        else:
            skips += found
    chosen: list[Chosen] = []
    for group in rivals.values():
        best, others = _best(group, study.input)
        chosen.append(best)
        skips += [Skip(header.path, Reason.OTHER_SERIES) for other in others for header in other.series.headers]
    seed = study.evaluation.split_seed
    chosen.sort(key=lambda c: (split_fraction(seed, c.series.patient_id), c.series.headers[0].path))
    return chosen, skips


def _match(series: Series, labels: Labels, study: Study) -> Chosen | list[Skip]:
    """The series with the class of each of its examples; examples without a label are left out."""
    level = study.task.label_level
    ids = [header.slice_id for header in series.headers] if level == "slice" else [*series_ids(series, level)]
    if not any(identifier in labels.classes for identifier in ids):
        return _unlabelled(series, ids, labels)
    plan = plan_planes(series, study.input)
    if plan is None:
        return [Skip(header.path, Reason.NOT_AXIAL) for header in series.headers]
    of_example = [ids[index] for index in plan.slices] if level == "slice" else ids * len(plan.examples)
    kept = np.array([identifier in labels.classes for identifier in of_example], dtype=bool)
    if not kept.any():
        return _unlabelled(series, ids, labels)
    used = [identifier for identifier in of_example if identifier in labels.classes]
    plan = dataclasses.replace(plan, examples=plan.examples[kept], slices=plan.slices[kept])
    return Chosen(series, plan, np.array([labels.classes[i] for i in used], dtype=np.int16), frozenset(used))


def _unlabelled(series: Series, ids: list[str], labels: Labels) -> list[Skip]:
    """``ids``: one for all slices, or one a slice."""
    of_slice = ids if len(ids) == len(series.headers) else ids * len(series.headers)
    return [
        Skip(header.path, Reason.CONFLICTING_LABEL if identifier in labels.conflicting else Reason.NO_LABEL)
        for header, identifier in zip(series.headers, of_slice, strict=True)
    ]


def _best(group: list[Chosen], wanted: Input) -> tuple[Chosen, list[Chosen]]:
    """The series that stands for a label, with what decided; and the others."""
    best, *others = sorted(group, key=lambda candidate: _rank(candidate.series, wanted))
    if not others:
        return best, []
    ranks = zip(CRITERIA, _rank(best.series, wanted), _rank(others[0].series, wanted), strict=True)
    decided_by = next(name for name, ours, theirs in ranks if ours != theirs)
    return dataclasses.replace(best, rivals=len(others), decided_by=decided_by), others


def _rank(series: Series, wanted: Input) -> tuple[object, ...]:
    """Sort key, the best series first: one value for each of CRITERIA."""
    first = series.headers[0]
    thickness = first.thickness or series.slice_spacing
    content = f"{first.series_uid}\0{first.path}\0{first.frame}\0{first.position}"
    return (
        not first.original,
        not first.primary,
        not is_axial(series),
        _kernel_place(first.kernel, wanted.kernels),
        round(abs(thickness - wanted.thickness_mm), 2),
        -len(series.headers),
        hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def _kernel_place(kernel: str, patterns: tuple[str, ...]) -> int:
    """Place of the first pattern that the kernel, or one of its values, matches; their number if none does."""
    values = [value.strip().casefold() for value in (kernel, *kernel.split("\\"))]
    for place, pattern in enumerate(patterns):
        if any(fnmatch.fnmatchcase(value, pattern.casefold()) for value in values):
            return place
    return len(patterns)
