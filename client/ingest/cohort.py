"""The cohort store: a site's ingested patients for the studies that share task, input and split.

::

    SITE/cohorts/<first 16 hex digits of Study.cohort_digest>/
      planes.npy            uint8 [planes, windows, size, size], mapped into memory
      examples.npy          one an example: patient, label, planes (lower, centre, upper)
      patients.npy          one a patient: pseudonym, fold, label (-1 when its examples differ)
      subgroups.npy         only where policy.subgroups of site.toml permits it: one a patient, its bands by code
      manifest.json         format, digests of cohort and study, settings, code version, source fingerprint
      ingest-report.json    what became of every file (client.ingest.report)
      ingest-report.html    the same to be looked at, with a contact sheet

With ``data.encrypt`` of site.toml all of them are sealed (client.ingest.store). Nothing of a header is in
it: patients are row numbers in an order that says nothing of them, with a pseudonym that only the site
key can make.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.ingest.store import MARKER, SEALED, Planes, Seal, SealedPlanes, read_file
from client.ingest.subgroups import dtype_of
from client.keys import SealBroken, load_key
from client.site import Site
from common.errors import DataError, SiteError
from common.study import NEIGHBOURS, Study, cohort_digest_of
from common.subgroups import BANDS

FORMAT = 3
HELD_OUT = 1  # the part of the split that a study without folds keeps out of training
EXAMPLE = np.dtype([("patient", "<i4"), ("label", "<i2"), ("planes", "<i4", (NEIGHBOURS,))])
PATIENT = np.dtype([("pseudonym", "u1", (16,)), ("fold", "u1"), ("label", "<i2")])
"""``pseudonym``: SiteKey.pseudonym("patient", PatientID). ``fold``: ``client.ingest.select.fold_of``."""
_REMEDY = "Run 'fedct-site ingest'"
_DAMAGE = (OSError, ValueError, KeyError, TypeError, EOFError, SealBroken)


@dataclass(frozen=True)
class Cohort:
    """An open cohort. ``planes`` uint8 [planes, windows, size, size] stays on disk until it is read.

    ``held_out_fold``: the part of the split that the study keeps out of training. ``subgroups``: the bands of each
    patient (``client.ingest.subgroups``), with columns for those that were kept; None without any.
    """

    folder: Path
    planes: Planes
    examples: NDArray[np.void]
    patients: NDArray[np.void]
    source_digest: str
    manifest: dict[str, Any]
    seal: Seal | None = None
    held_out_fold: int = HELD_OUT
    subgroups: NDArray[np.void] | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the files are sealed with the site key."""
        return self.seal is not None

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class index of each example, int64 [examples]."""
        labels: NDArray[np.int64] = self.examples["label"].astype(np.int64)
        return labels

    @property
    def held_out(self) -> NDArray[np.bool_]:
        """Which patients are kept out of training, bool [patients]."""
        return is_held_out(self.patients, self.held_out_fold)

    def training_patients(self) -> list[NDArray[np.int64]]:
        """Example indices of each patient that may be trained on, one array a patient."""
        return self.patient_examples(np.flatnonzero(~self.held_out))

    def holdout_patients(self) -> list[NDArray[np.int64]]:
        """Example indices of each patient kept out of training, one array a patient."""
        return self.patient_examples(np.flatnonzero(self.held_out))

    def patient_examples(self, rows: NDArray[np.intp]) -> list[NDArray[np.int64]]:
        """Example indices of each patient of these rows of ``patients``."""
        order = np.argsort(self.examples["patient"], kind="stable")
        ends = np.cumsum(np.bincount(self.examples["patient"], minlength=len(self.patients)))
        groups = np.split(order, ends[:-1])
        return [groups[row] for row in rows]

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Examples as the network takes them: uint8 [n, 3 * windows, size, size].

        Channels are window-major: lower, centre and upper plane of the first window, then of the next.
        Of an encrypted cohort just these planes are opened; raises DataError if one was altered.
        """
        try:
            stacks = np.asarray(self.planes[self.examples["planes"][indices]])  # [n, 3, windows, size, size]
        except SealBroken:
            raise _damaged(self.folder, "a plane was altered, or put in the place of another") from None
        count, neighbours, windows, *side = stacks.shape
        channels: NDArray[np.uint8] = stacks.swapaxes(1, 2).reshape(count, windows * neighbours, *side)
        return channels

    def read_file(self, name: str) -> bytes:
        """One of the cohort's files in clear. Raises DataError if it is missing or damaged."""
        try:
            return read_file(self.folder, name, self.seal)
        except _DAMAGE as error:
            raise _damaged(self.folder, _words(error)) from None


def is_held_out(patients: NDArray[np.void], fold: int) -> NDArray[np.bool_]:
    """Which rows of a table of patients are in the part ``fold`` of the split, bool [patients]."""
    held_out: NDArray[np.bool_] = patients["fold"] == fold
    return held_out


def held_out_fold(study: Study) -> int:
    """The part of the split that ``study`` keeps out of training."""
    return study.evaluation.fold or HELD_OUT


def cohort_folder(site: Site, study: Study) -> Path:
    """Where the cohort of ``study`` lies at ``site``, whether it exists or not."""
    return site.cohorts_dir / study.cohort_digest[:16]


def new_manifest(study: Study, source: str) -> dict[str, Any]:
    """The manifest of a cohort of ``study`` made by this code from files with fingerprint ``source``."""
    return {
        "format": FORMAT,
        "cohort_digest": study.cohort_digest,
        "study_digest": study.digest,
        "settings": study.cohort_settings,
        "code_version": importlib.metadata.version("fedct"),
        "source": source,
    }


def open_cohort(site: Site, study: Study) -> Cohort:
    """Open the cohort that fits ``study``.

    Raises DataError if there is none, if it was made for another task, input or split, if its files are
    damaged or cut short, or if it was sealed with another key; SiteError if it is sealed and there is no key.
    """
    folder = cohort_folder(site, study)
    if not folder.is_dir():
        raise DataError(
            f"site '{site.name}' has no cohort for study '{study.name}' ('{folder}' does not exist)", _REMEDY
        )
    cohort = open_folder(site, folder)
    if cohort.manifest["cohort_digest"] != study.cohort_digest:
        raise DataError(
            f"cohort '{folder}' was made for another task, input or split than study '{study.name}'", _REMEDY
        )
    return dataclasses.replace(cohort, held_out_fold=held_out_fold(study))


def open_folder(site: Site, folder: Path) -> Cohort:
    """Open the cohort in ``folder``, whatever its study: of folds, the first is held out. Raises as ``open_cohort``."""
    try:
        seal = Seal.of_folder(folder, load_key(site.key_file)) if (folder / MARKER).exists() else None
    except (OSError, ValueError) as error:
        raise _damaged(folder, _words(error)) from None
    try:
        manifest = json.loads(read_file(folder, "manifest.json", seal))
        _check_format(manifest["format"])
        examples, patients = (_read_table(folder, n, manifest["sha256"][n], seal) for n in ("examples", "patients"))
        settings, source = manifest["settings"], str(manifest["source"])
        shape = (len(settings["input"]["windows"]), settings["input"]["size"], settings["input"]["size"])
        planes = _open_planes(folder, (manifest["planes"], *shape), seal)
        _check(planes, examples, patients, len(settings["task"]["classes"]))
        if cohort_digest_of(settings) != manifest["cohort_digest"]:
            raise ValueError("its settings are not those of its digest")
        subgroups = _read_subgroups(folder, manifest, len(patients), seal)
        return Cohort(folder, planes, examples, patients, source, manifest, seal, subgroups=subgroups)
    except SealBroken:
        raise DataError(
            f"cohort '{folder}' does not open with the site key '{site.key_file}'",
            "It was sealed with another key or altered: restore the key, or run 'fedct-site ingest' again",
        ) from None
    except _DAMAGE as error:
        raise _damaged(folder, _words(error)) from None


def reusable_cohort(site: Site, study: Study, source: str) -> Cohort | None:
    """The cohort on disk if it is whole, of the same files (``source``), encrypted and with bands as the site wants it."""
    try:
        cohort = open_cohort(site, study)
    except (DataError, SiteError):  # absent, damaged, or of a key that was lost: made anew
        return None
    kept = () if cohort.subgroups is None else cohort.subgroups.dtype.names or ()
    wanted = (source, site.config.data.encrypt, site.config.policy.subgroups)
    return cohort if (cohort.source_digest, cohort.encrypted, tuple(kept)) == wanted else None


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"cohort '{folder}' is damaged ({what})", "Run 'fedct-site ingest' again")


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _check_format(found: object) -> None:
    if found != FORMAT:
        raise ValueError(f"its format is {found!r}, expected {FORMAT}")


def _read_table(folder: Path, name: str, sha256: str, seal: Seal | None) -> NDArray[np.void]:
    content = read_file(folder, f"{name}.npy", seal)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"{name}.npy does not have the content that the manifest names")
    table: NDArray[np.void] = np.load(io.BytesIO(content), allow_pickle=False)
    return table


def _read_subgroups(
    folder: Path, manifest: dict[str, Any], patients: int, seal: Seal | None
) -> NDArray[np.void] | None:
    """The bands that were kept, if any. Raises ValueError unless they are codes of known bands, one row a patient."""
    kept = manifest.get("subgroups")
    if kept is None:
        return None
    table = _read_table(folder, "subgroups", kept["sha256"], seal)
    names = tuple(kept["names"])
    if table.dtype != dtype_of(names) or len(table) != patients:
        raise ValueError("subgroups.npy has other columns or rows than expected")
    if any(table[name].max() >= len(BANDS[name]) for name in names):
        raise ValueError("subgroups.npy holds a band that does not exist")
    return table


def _open_planes(folder: Path, shape: tuple[int, int, int, int], seal: Seal | None) -> Planes:
    """The planes on disk. Raises ValueError unless they are uint8 of ``shape``."""
    if seal is not None:
        return SealedPlanes(folder / ("planes.npy" + SEALED), shape, seal)
    planes: NDArray[np.uint8] = np.load(folder / "planes.npy", mmap_mode="r", allow_pickle=False)
    if planes.dtype != np.uint8 or planes.shape != shape:
        raise ValueError(f"planes.npy holds {planes.dtype} {planes.shape}, expected uint8 {shape}")
    return planes


def _check(planes: Planes, examples: NDArray[np.void], patients: NDArray[np.void], classes: int) -> None:
    """Raise ValueError unless the tables fit each other, the planes and the number of classes."""
    if examples.dtype != EXAMPLE or patients.dtype != PATIENT or not len(examples):
        raise ValueError("examples.npy or patients.npy has other columns than expected")
    limits = {"patient": len(patients), "label": classes, "planes": len(planes)}
    for name, limit in limits.items():
        if examples[name].min() < 0 or examples[name].max() >= limit:
            raise ValueError(f"examples.npy points outside, at a {name} that does not exist")
