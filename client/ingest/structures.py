"""Labels from contours: is the structure that the study names drawn on a slice?

RTSTRUCT (PS3.3 C.8.8.5, C.8.8.6) and DICOM segmentations (C.8.20) are joined to slices by position along
the slices' normal, within half the distance to the next slice: references to SOP instances are often wrong.
Frames of reference are compared where both sides give one that matches; otherwise the set is taken to
belong to every series of the patient that it lies within.

A series that nobody contoured gets no labels: not drawn is not the same as absent.
"""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, RLELossless

from client.ingest.geometry import Series
from client.ingest.labels import Labels
from client.ingest.records import Annotation, Reason, Skip
from client.ingest.slices import MAXIMUM_SIDE, MAXIMUM_VOXELS
from client.ingest.sources import SourceError, open_source
from common.study import Task

MAXIMUM_BYTES = 2**28
"""Largest structure set or segmentation that is read."""
PARALLEL = 0.999
"""Least cosine between the normal of a segmentation's planes and that of the slices (2.6 degrees)."""
ROUNDING_MM = 0.001
_CLOSED = ("", "CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # points and open lines mark, they don't outline


@dataclass(frozen=True)
class Drawn:
    """Where a set draws the structure: of each outline its points, or of each plane one, in LPS mm.

    ``normal`` of the planes, or None where the points themselves say (outlines of an RTSTRUCT).
    """

    frame_of_reference: str
    outlines: tuple[NDArray[np.float64], ...]
    normal: NDArray[np.float64] | None


@dataclass(frozen=True)
class Structures:
    """``labels``; ``used``: paths of the sets that gave them; ``skips``: the other sets."""

    labels: Labels
    used: tuple[str, ...]
    skips: tuple[Skip, ...]


def structure_labels(annotations: Sequence[Annotation], series: Sequence[Series], root: Path, task: Task) -> Structures:
    """Label the slices of ``series`` by what ``annotations`` draw: class 1 where ``task.structure`` is, else 0.

    Slices on which two sets disagree are ``conflicting``. Never raises on a damaged set.
    """
    of_patient: dict[str, list[Series]] = defaultdict(list)
    for one in series:
        of_patient[one.patient_id].append(one)
    found: dict[str, set[bool]] = defaultdict(set)
    used: list[str] = []
    skips: list[Skip] = []
    unplaced = 0
    for annotation in annotations:
        drawn = read_drawn(root, annotation, task.structure)
        if isinstance(drawn, Skip):
            skips.append(drawn)
            continue
        joined = [join(drawn, one) for one in _candidates(drawn, of_patient[annotation.patient_id])]
        placed = [one for one in joined if one is not None]
        if not placed:
            skips.append(Skip(annotation.path, Reason.NO_STRUCTURE, "it lies on no CT series of the patient"))
            continue
        used.append(annotation.path)
        for present, missed in placed:
            unplaced += missed
            for slice_id, there in present.items():
                found[slice_id].add(there)
    return Structures(_labels(found, len(annotations), len(used), unplaced), tuple(used), tuple(skips))


def _labels(found: dict[str, set[bool]], sets: int, used: int, unplaced: int) -> Labels:
    classes = {slice_id: int(True in answers) for slice_id, answers in found.items() if len(answers) == 1}
    conflicting = frozenset(found) - classes.keys()
    notes = {
        "source": "structures",
        "sets": sets,
        "sets_used": used,
        "slices_present": sum(classes.values()),
        "slices_absent": len(classes) - sum(classes.values()),
        "conflicting": {"count": len(conflicting), "lines": []},
        "outlines_between_slices": unplaced,
    }
    return Labels(classes, conflicting, {}, notes)


def _candidates(drawn: Drawn, series: list[Series]) -> list[Series]:
    """The series in the set's frame of reference; if none is, those that hold all that is drawn."""
    frame = drawn.frame_of_reference
    same = [one for one in series if frame and one.headers[0].frame_of_reference == frame]
    return same or [one for one in series if _within(drawn, one)]


def _within(drawn: Drawn, series: Series) -> bool:
    joined = join(drawn, series)
    return joined is not None and joined[1] == 0


def join(drawn: Drawn, series: Series) -> tuple[dict[str, bool], int] | None:
    """Whether each slice of ``series`` is drawn on, and how many outlines met none.

    None if the planes are not parallel to the slices, or there is no position that meets a slice.
    """
    normal = series.normal
    places = np.array([header.position for header in series.headers]) @ normal
    gaps = np.abs(np.diff(places))
    reach = np.maximum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps)) / 2 + ROUNDING_MM
    if drawn.normal is not None and abs(float(drawn.normal @ normal)) < PARALLEL:
        return None
    present = np.zeros(len(places), dtype=bool)
    missed = 0
    for points in drawn.outlines:
        heights = points @ normal
        nearest = int(np.argmin(np.abs(places - heights.mean())))
        # An outline across the slices spans more than one of them, so it is none of theirs.
        if abs(places[nearest] - heights.mean()) > reach[nearest] or np.ptp(heights) > 2 * reach[nearest]:
            missed += 1
        else:
            present[nearest] = True
    if not present.any():
        return None
    return {h.slice_id: bool(there) for h, there in zip(series.headers, present, strict=True)}, missed


def read_drawn(root: Path, annotation: Annotation, structure: str) -> Drawn | Skip:
    """Where the set draws ``structure`` (letter case is ignored), or why it is left out. Never raises."""
    read = {"rtstruct": _read_rtstruct, "seg": _read_segmentation}[annotation.kind]
    try:
        with open_source(root, annotation.path) as file:
            content = file.read(MAXIMUM_BYTES + 1)
    except SourceError as error:
        return Skip(annotation.path, error.reason, error.detail)
    except OSError:
        return Skip(annotation.path, Reason.UNREADABLE)
    if len(content) > MAXIMUM_BYTES:
        return Skip(annotation.path, Reason.TOO_LARGE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what pydicom finds odd is judged here, value by value
            return read(pydicom.dcmread(io.BytesIO(content), force=True), structure.strip().casefold())
    except SourceError as error:
        return Skip(annotation.path, error.reason, error.detail)
    except Exception:  # pydicom and numpy raise many kinds on damaged sets
        return Skip(annotation.path, Reason.BAD_HEADER, "structure set or segmentation")


def _named(value: object, structure: str) -> bool:
    return str(value or "").strip().casefold() == structure


def _read_rtstruct(dataset: pydicom.Dataset, structure: str) -> Drawn:
    regions = [one for one in dataset.StructureSetROISequence if _named(one.get("ROIName"), structure)]
    numbers = {int(one.ROINumber) for one in regions}
    outlines: list[NDArray[np.float64]] = []
    for region in dataset.get("ROIContourSequence") or []:
        if int(region.ReferencedROINumber) not in numbers:
            continue
        closed = [c for c in region.get("ContourSequence") or [] if str(c.get("ContourGeometricType") or "") in _CLOSED]
        outlines += [np.array([float(v) for v in c.get("ContourData") or []]).reshape(-1, 3) for c in closed]
    outlines = [points for points in outlines if len(points)]
    if not all(np.isfinite(points).all() for points in outlines):
        raise ValueError
    if not outlines:
        raise SourceError(Reason.NO_STRUCTURE)
    frames = {str(one.get("ReferencedFrameOfReferenceUID") or "") for one in regions}
    return Drawn(frames.pop() if len(frames) == 1 else "", tuple(outlines), None)


def _read_segmentation(dataset: pydicom.Dataset, structure: str) -> Drawn:
    numbers = {int(s.SegmentNumber) for s in dataset.SegmentSequence if _named(s.get("SegmentLabel"), structure)}
    if not numbers:
        raise SourceError(Reason.NO_STRUCTURE)
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), len(dataset.PerFrameFunctionalGroupsSequence)
    if not (0 < rows <= MAXIMUM_SIDE and 0 < columns <= MAXIMUM_SIDE and rows * columns * frames <= MAXIMUM_VOXELS):
        raise SourceError(Reason.TOO_LARGE)
    normals: list[NDArray[np.float64]] = []
    places: list[NDArray[np.float64]] = []
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        segment = _macro(dataset, group, "SegmentIdentificationSequence")
        if int(segment.ReferencedSegmentNumber) not in numbers or not _frame(dataset, index).any():
            continue
        position = _macro(dataset, group, "PlanePositionSequence").ImagePositionPatient
        orientation = np.array(_macro(dataset, group, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
        places.append(np.array(position, dtype=float).reshape(1, 3))
        normals.append(np.cross(orientation[:3], orientation[3:]))
    if not places:
        raise SourceError(Reason.NO_STRUCTURE)
    if not np.isfinite(places).all() or not np.allclose(normals, normals[0], atol=1e-3):
        raise ValueError
    return Drawn(str(dataset.get("FrameOfReferenceUID") or ""), tuple(places), normals[0])


def _macro(dataset: pydicom.Dataset, group: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """A functional group: the frame's own before the shared one (PS3.3 C.7.6.16)."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    macro: pydicom.Dataset = (group.get(name) or shared[0].get(name))[0]
    return macro


def _frame(dataset: pydicom.Dataset, index: int) -> NDArray[np.uint8]:
    """Pixels of one frame. Binary frames are packed bits without padding between them (PS3.5 8.2.1)."""
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID)) if "TransferSyntaxUID" in dataset.file_meta else None
    count = int(dataset.Rows) * int(dataset.Columns)
    if int(dataset.BitsAllocated) == 1 and (syntax is None or not syntax.is_encapsulated):
        first = index * count
        packed = np.frombuffer(dataset.PixelData, np.uint8)[first // 8 : -(-(first + count) // 8)]
        bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + count]
        if len(bits) != count:
            raise ValueError
        return bits
    if syntax is not None and syntax.is_encapsulated and syntax != RLELossless:
        raise SourceError(
            Reason.UNSUPPORTED_SYNTAX, syntax.name
        )  # others may take memory by what their code stream says
    decoded: NDArray[np.uint8] = pixel_array(dataset, index=index, decoding_plugin="pydicom")
    return decoded
