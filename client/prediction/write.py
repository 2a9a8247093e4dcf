"""Write an answer: JSON, a page, DICOM. All of it shows a patient, so only its owner may read it.

::

    OUT/                 mode 0700, files 0600; there as a whole or not at all
      prediction.json    for programs
      report.html        for people; self-contained
      heatmap/0001.dcm   secondary captures, one a plane
      map.dcm            parametric map
      report.dcm         structured report
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from client.prediction.dicom import Objects
from client.prediction.predict import Answer
from client.prediction.source import NewStudy
from common.errors import UsageError
from common.files import fsync_folder, whole_folder, write_atomic
from common.models.saved import SavedModel
from common.study import Study, canonical_json

_VALUES = {
    "mean": "mean probability over the planes",
    "max": "largest probability over the planes, scaled to add up to 1",
    "attention": "probability of all planes together, weighed by attention",
    "gru": "probability of all planes together, read in order",
}
WARNING = "Research output of an experimental model. Not a medical device: do not use it to decide about a patient."


def check_new(out: Path) -> None:
    """Raise UsageError if ``out`` exists and is not an empty folder: results of two studies must not mix."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists and is not an empty folder", "Give another folder; nothing is overwritten")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"'{out.absolute().parent}' does not exist", "Make it first")


def summary(
    new: NewStudy, study: Study, model: SavedModel, answer: Answer, calibration: dict[str, Any] | None
) -> dict[str, Any]:
    """Content of ``prediction.json``. ``calibration``: what is known of such values, from the model card."""
    headers = new.chosen.series.headers
    slices = new.chosen.plan.slices
    return {
        "format": 1,
        "warning": WARNING,
        "study": {"name": study.name, "digest": study.digest},
        "model_sha256": model.sha256,
        "study_uid": headers[0].study_uid,
        "series_uid": headers[0].series_uid,
        "value_is": "share of slices" if answer.by_slice else _VALUES[study.model.pooling],
        "classes": [
            {"name": name, "value": round(float(value), 6)}
            for name, value in zip(answer.classes, answer.values, strict=True)
        ],
        "likeliest": answer.classes[answer.said],
        "calibration": calibration,
        "planes": [
            {
                "slice": headers[index].slice_id if index >= 0 else None,
                "probabilities": [round(float(p), 6) for p in row],
            }
            for index, row in zip(slices, answer.examples, strict=True)
        ],
        "files": {"given": new.files.total, "used": new.files.accepted, "left_out": dict(new.files.refused)},
    }


def write_answer(out: Path, content: dict[str, Any], page: str, objects: Objects) -> None:
    """Write the folder ``out``, whole or not at all. OSError passes through."""
    if out.is_dir():
        out.chmod(0o700)
    with whole_folder(out.absolute()) as folder:
        write_atomic(folder / "prediction.json", (canonical_json(content) + "\n").encode())
        write_atomic(folder / "report.html", page.encode())
        (folder / "heatmap").mkdir(mode=0o700)
        for number, picture in enumerate(objects.pictures, start=1):
            write_atomic(folder / "heatmap" / f"{number:04d}.dcm", _file(picture))
        fsync_folder(folder / "heatmap")
        write_atomic(folder / "map.dcm", _file(objects.map))
        write_atomic(folder / "report.dcm", _file(objects.report))


def _file(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()
