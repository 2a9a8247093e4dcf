"""Walk a tree of files and read the header of every CT slice in it.

A file is recognised by its content, never by its name: a DICM prefix after the preamble, or a bare
data set that begins with group 0002 or 0008. Pixels are not read here.
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID, CTImageStorage

from client.ingest.records import Header, Reason, Skip

MAXIMUM_SIDE = 4096
"""Largest number of rows or columns taken; larger values are a damaged header."""

_TAGS = [
    "SpecificCharacterSet",
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "PatientID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
]
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of the tree: path relative to its root, size in bytes, time of change in ns."""

    path: str
    size: int
    mtime_ns: int


def walk(root: Path) -> tuple[list[Entry], list[Skip]]:
    """All files under ``root``, sorted by path. Links are followed; a folder is visited only once."""
    entries: list[Entry] = []
    skips: list[Skip] = []
    visited: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in visited:
                continue
            visited.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(root / folder))
        except OSError:
            skips.append(Skip(folder, Reason.UNREADABLE))
            continue
        for name in names:
            found = _look_at(root, os.path.join(folder, name))
            if isinstance(found, Entry):
                entries.append(found)
            elif isinstance(found, Skip):
                skips.append(found)
            else:
                pending.append(found)
    return sorted(entries, key=lambda entry: entry.path), sorted(skips, key=lambda skip: skip.path)


def _look_at(root: Path, path: str) -> Entry | Skip | str:
    """A file as ``Entry``, a folder as its path, anything else as ``Skip``."""
    try:
        status = os.stat(root / path)
    except OSError:
        return Skip(path, Reason.NOT_A_FILE if os.path.islink(root / path) else Reason.UNREADABLE)
    if stat.S_ISDIR(status.st_mode):
        return path
    if stat.S_ISREG(status.st_mode):
        return Entry(path, status.st_size, status.st_mtime_ns)
    return Skip(path, Reason.NOT_A_FILE)  # opening a pipe would wait for ever


def fingerprint(entries: list[Entry], extra: bytes) -> str:
    """SHA-256 over path, size and time of change of every file, and over ``extra``; 64 hex digits."""
    digest = hashlib.sha256(extra)
    for entry in entries:
        digest.update(f"\0{entry.size}\0{entry.mtime_ns}\0".encode())
        digest.update(os.fsencode(entry.path))
    return digest.hexdigest()


def read_headers(root: Path, paths: list[str]) -> list[Header | Skip]:
    """``read_header`` of each of ``paths`` under ``root``; the unit of work of a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what pydicom finds odd is judged here, value by value
        return [read_header(root, path) for path in paths]


def read_header(root: Path, path: str) -> Header | Skip:
    """The header of the CT slice at ``root / path``, or why the file is left out. Never raises."""
    full = root / path
    try:
        kind = _content(full)
        if kind is None:
            return Skip(path, Reason.NOT_DICOM)
        size = full.stat().st_size
        dataset = pydicom.dcmread(full, stop_before_pixels=True, specific_tags=list(_TAGS), force=kind == "bare")
    except OSError:
        return Skip(path, Reason.UNREADABLE)
    except Exception:  # pydicom raises many kinds on damaged files
        return Skip(path, Reason.BAD_HEADER)
    try:
        return _judge(dataset, path, size)
    except Exception:  # values are converted on access
        return Skip(path, Reason.BAD_HEADER)


def _content(path: Path) -> str | None:
    """``part10`` for a file with preamble, ``bare`` for a data set without, None for no DICOM."""
    with path.open("rb") as file:
        start = file.read(132)
    if start[128:132] == b"DICM":
        return "part10"
    if len(start) >= 16 and start[0] in (2, 8) and start[1] == 0 and start[3] == 0:  # (0002,00xx) or (0008,00xx)
        return "bare"
    return None


def _judge(dataset: pydicom.Dataset, path: str, size: int) -> Header | Skip:
    """Header or reason, in the order in which a reader would ask."""
    kind = _other_kind(dataset)
    if kind is not None:
        return Skip(path, kind)
    position, orientation, spacing = (
        _numbers(dataset, tag) for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
    )
    slope, intercept = _numbers(dataset, "RescaleSlope"), _numbers(dataset, "RescaleIntercept")
    rows, columns = int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)
    patient_id = _text(dataset, "PatientID")
    pixel_bytes = rows * columns * (int(dataset.get("BitsAllocated") or 16) // 8)
    checks = (
        (bool(position and orientation and spacing and rows and columns), Reason.NO_GEOMETRY),
        (bool(slope and intercept), Reason.NO_RESCALE),
        (_is_place(position, orientation), Reason.BAD_HEADER),
        (_is_scale(spacing, slope, intercept) and min(rows, columns) > 0, Reason.BAD_HEADER),
        (max(rows, columns) <= MAXIMUM_SIDE, Reason.BAD_HEADER),
        (_has_room_for_pixels(dataset, size, pixel_bytes), Reason.PIXELS_UNREADABLE),
        (bool(patient_id), Reason.NO_PATIENT_ID),
    )
    for good, reason in checks:
        if not good:
            return Skip(path, reason)
    return Header(
        path=path,
        patient_id=patient_id,
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        sop_uid=_text(dataset, "SOPInstanceUID"),
        position=(position[0], position[1], position[2]),
        orientation=(orientation[0], orientation[1], orientation[2], orientation[3], orientation[4], orientation[5]),
        spacing=(spacing[0], spacing[1]),
        rows=rows,
        columns=columns,
        original="ORIGINAL" in _image_type(dataset),
    )


def _other_kind(dataset: pydicom.Dataset) -> Reason | None:
    """Why the object is no single CT slice, or None if it is one."""
    if (_text(dataset, "SOPClassUID") or _text(_meta(dataset), "MediaStorageSOPClassUID")) != CTImageStorage:
        return Reason.NOT_CT
    if "LOCALIZER" in _image_type(dataset):
        return Reason.LOCALIZER
    if int(dataset.get("NumberOfFrames") or 1) != 1 or int(dataset.get("SamplesPerPixel") or 1) != 1:
        return Reason.MULTI_FRAME
    return None


def _is_place(position: list[float], orientation: list[float]) -> bool:
    """Whether the position lies within 100 m and the orientation is two unit vectors at right angles."""
    if len(position) != 3 or len(orientation) != 6 or not all(math.isfinite(v) for v in (*position, *orientation)):
        return False
    across, down = orientation[:3], orientation[3:]
    unit = all(abs(math.hypot(*vector) - 1) < _UNIT_TOLERANCE for vector in (across, down))
    square = abs(sum(a * b for a, b in zip(across, down, strict=True))) < _UNIT_TOLERANCE
    return unit and square and max(abs(v) for v in position) < 1e5


def _is_scale(spacing: list[float], slope: list[float], intercept: list[float]) -> bool:
    """Whether pixels are between 0.01 and 20 mm, and slope and intercept are one number each."""
    if (len(spacing), len(slope), len(intercept)) != (2, 1, 1):
        return False
    finite = all(math.isfinite(v) for v in (*slope, *intercept))
    return finite and slope[0] != 0 and all(0.01 < v < 20 for v in spacing)


def _has_room_for_pixels(dataset: pydicom.Dataset, size: int, pixel_bytes: int) -> bool:
    """Whether a file of ``size`` bytes can hold its pixels; compressed ones only show when decoded."""
    syntax = UID(_text(_meta(dataset), "TransferSyntaxUID"))
    if syntax and (not syntax.is_transfer_syntax or syntax.is_compressed):
        return True
    return size > pixel_bytes


def _meta(dataset: pydicom.Dataset) -> pydicom.Dataset | None:
    return getattr(dataset, "file_meta", None)


def _image_type(dataset: pydicom.Dataset) -> list[str]:
    return [str(part).upper() for part in _values(dataset, "ImageType")]


def _text(dataset: pydicom.Dataset | None, tag: str) -> str:
    value = dataset.get(tag) if dataset is not None else None
    return "" if value is None else str(value).strip(" \0")


def _values(dataset: pydicom.Dataset, tag: str) -> list[Any]:
    """The values of an element as a list, whatever its multiplicity; empty when it is absent or empty."""
    value = dataset.get(tag)
    if value is None or value == "":
        return []
    return [value] if isinstance(value, (str, float, int)) else list(value)


def _numbers(dataset: pydicom.Dataset, tag: str) -> list[float]:
    return [float(value) for value in _values(dataset, tag)]
