"""The cohort store: a site's ingested patients for the studies that share task, input and split.

::

    SITE/cohorts/<first 16 hex digits of Study.cohort_digest>/
      planes.npy      uint8 [planes, windows, size, size], mapped into memory
      examples.npy    one an example: patient, label, planes (lower, centre, upper)
      patients.npy    one a patient: holdout, label (-1 when its examples differ)
      manifest.json   format, cohort digest, code version, source fingerprint, counts

Nothing of a header is in it: patients are row numbers, in an order that says nothing of them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.site import Site
from common.errors import DataError
from common.study import NEIGHBOURS, Study

FORMAT = 1
EXAMPLE = np.dtype([("patient", "<i4"), ("label", "<i2"), ("planes", "<i4", (NEIGHBOURS,))])
PATIENT = np.dtype([("holdout", "?"), ("label", "<i2")])
_REMEDY = "Run 'fedct-site ingest'"


@dataclass(frozen=True)
class Cohort:
    """An open cohort. ``planes`` uint8 [planes, windows, size, size] stays on disk until it is read."""

    folder: Path
    planes: NDArray[np.uint8]
    examples: NDArray[np.void]
    patients: NDArray[np.void]
    source_digest: str
    counts: dict[str, Any]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each example, int64 [examples]."""
        labels: NDArray[np.int64] = self.examples["label"].astype(np.int64)
        return labels

    def training_patients(self) -> list[NDArray[np.int64]]:
        """Example indices of each patient that may be trained on, one array a patient."""
        return self._examples_of(held_out=False)

    def holdout_patients(self) -> list[NDArray[np.int64]]:
        """Example indices of each patient kept out of training, one array a patient."""
        return self._examples_of(held_out=True)

    def _examples_of(self, *, held_out: bool) -> list[NDArray[np.int64]]:
        order = np.argsort(self.examples["patient"], kind="stable")
        ends = np.cumsum(np.bincount(self.examples["patient"], minlength=len(self.patients)))
        groups = np.split(order, ends[:-1])
        return [group for group, holdout in zip(groups, self.patients["holdout"], strict=True) if holdout == held_out]

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Examples as the network takes them: uint8 [n, 3 * windows, size, size].

        Channels are window-major: lower, centre and upper plane of the first window, then of the next.
        """
        stacks = np.asarray(self.planes[self.examples["planes"][indices]])  # [n, 3, windows, size, size]
        count, neighbours, windows, *side = stacks.shape
        channels: NDArray[np.uint8] = stacks.swapaxes(1, 2).reshape(count, windows * neighbours, *side)
        return channels


def cohort_folder(site: Site, study: Study) -> Path:
    """Where the cohort of ``study`` lies at ``site``, whether it exists or not."""
    return site.cohorts_dir / study.cohort_digest[:16]


def open_cohort(site: Site, study: Study) -> Cohort:
    """Open the cohort that fits ``study``.

    Raises DataError if there is none, if it was made for another task, input or split, or if its files
    are damaged or cut short.
    """
    folder = cohort_folder(site, study)
    if not folder.is_dir():
        raise DataError(
            f"site '{site.name}' has no cohort for study '{study.name}' ('{folder}' does not exist)", _REMEDY
        )
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        made_for, source, counts = manifest["cohort_digest"], str(manifest["source"]), dict(manifest["counts"])
        _check_format(manifest["format"])
        examples, patients = (_read_table(folder, name, manifest["sha256"][name]) for name in ("examples", "patients"))
        planes = np.load(folder / "planes.npy", mmap_mode="r", allow_pickle=False)
        _check(planes, examples, patients, (len(study.input.windows), study.input.size, len(study.task.classes)))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"cohort '{folder}' is damaged ({error})", "Run 'fedct-site ingest' again") from None
    if made_for != study.cohort_digest:
        raise DataError(
            f"cohort '{folder}' was made for another task, input or split than study '{study.name}'", _REMEDY
        )
    return Cohort(folder, planes, examples, patients, source, counts)


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise ValueError(f"its format is {found!r}, expected {FORMAT}")


def _read_table(folder: Path, name: str, sha256: str) -> NDArray[np.void]:
    path = folder / f"{name}.npy"
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise ValueError(f"{path.name} does not have the content that the manifest names")
    table: NDArray[np.void] = np.load(path, allow_pickle=False)
    return table


def _check(
    planes: NDArray[np.uint8], examples: NDArray[np.void], patients: NDArray[np.void], shape: tuple[int, int, int]
) -> None:
    """Raise ValueError unless the arrays fit each other and the study's windows, size and classes."""
    windows, size, classes = shape
    if planes.dtype != np.uint8 or planes.shape[1:] != (windows, size, size):
        raise ValueError(
            f"planes.npy holds {planes.dtype} {planes.shape}, expected uint8 [n, {windows}, {size}, {size}]"
        )
    if examples.dtype != EXAMPLE or patients.dtype != PATIENT or not len(examples):
        raise ValueError("examples.npy or patients.npy has other columns than expected")
    limits = {"patient": len(patients), "label": classes, "planes": len(planes)}
    for name, limit in limits.items():
        if examples[name].min() < 0 or examples[name].max() >= limit:
            raise ValueError(f"examples.npy points outside, at a {name} that does not exist")
