"""Deal a real data set out to simulated hospitals, by patient.

Every file of a patient goes to one site, so no patient is at two sites. With a Dirichlet
concentration (Hsu et al. 2019) the classes are skewed over the sites: small alpha, strong skew.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from client.site import Site, load_site
from common.errors import DataError, UsageError
from simulations.simulated_site import create_simulated_site

Rows = list[dict[str, str]]
KEYS = {
    "patient_id": "PatientID",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
    "sop_uid": "SOPInstanceUID",
}


def split(
    dicom: Path,
    labels: Path,
    out: Path,
    *,
    sites: int,
    alpha: float | None = None,
    label_column: str = "label",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Site]:
    """Make ``out/site-1`` ... ``site-N`` with a share of the patients each.

    Files are hard-linked where the file system allows, else copied. Raises DataError for a folder or
    table that can't be used, UsageError for impossible numbers; ``out`` appears whole or not at all.
    """
    if sites < 1:
        raise UsageError(f"--sites {sites}: expected at least 1")
    if alpha is not None and alpha <= 0:
        raise UsageError(f"--alpha {alpha}: expected a number above 0")
    if out.exists():
        raise UsageError(f"'{out}' exists already", "Choose a new folder, or remove it")
    header, rows = _read_labels(labels)
    files, patient_of = _scan(dicom, progress or (lambda _done, _total: None))
    table = _rows_by_patient(header, rows, patient_of, labels)
    patients = sorted(set(files) & set(table))
    if not patients:
        raise DataError(
            f"no patient of '{labels}' has a DICOM file under '{dicom}'", "Check the id column of the table"
        )
    if len(patients) < sites:
        raise UsageError(f"--sites {sites}: there are only {len(patients)} patients")
    if alpha is None:
        rng = np.random.default_rng(seed)
        order = [patients[i] for i in rng.permutation(len(patients))]
        deal = [order[i::sites] for i in range(sites)]
    else:
        deal = deal_skewed({p: _majority(table[p], label_column, labels) for p in patients}, sites, alpha, seed)
    staging = out.with_name(f".{out.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for number, members in enumerate(deal, start=1):
            _write_site(staging / f"site-{number}", f"site-{number}", members, files, table, header)
        staging.rename(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return [load_site(out / f"site-{number}") for number in range(1, sites + 1)]


def _read_labels(path: Path) -> tuple[list[str], Rows]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"label table '{path}' can't be read ({error})") from None
    header = list(reader.fieldnames or [])
    if not rows or not set(header) & set(KEYS):
        raise DataError(f"label table '{path}' has no rows or no id column", f"Expected one of {', '.join(KEYS)}")
    return header, rows


def _scan(dicom: Path, progress: Callable[[int, int], None]) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Files of each patient, and the patient of every UID. Files that are not DICOM are left out."""
    if not dicom.is_dir():
        raise DataError(f"DICOM folder '{dicom}' does not exist")
    files: dict[str, list[Path]] = defaultdict(list)
    patient_of: dict[str, str] = {}
    paths = sorted(Path(folder) / name for folder, _, names in os.walk(dicom) for name in names)
    for done, path in enumerate(paths, start=1):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(KEYS.values()))
        except (InvalidDicomError, OSError, ValueError, KeyError, AttributeError, NotImplementedError):
            continue
        finally:
            progress(done, len(paths))
        patient = str(header.get("PatientID", ""))
        if patient:
            files[patient].append(path)
            patient_of |= {str(header.get(tag, "")): patient for tag in list(KEYS.values())[1:]}
    return files, patient_of


def _rows_by_patient(header: list[str], rows: Rows, patient_of: dict[str, str], path: Path) -> dict[str, Rows]:
    table: dict[str, Rows] = defaultdict(list)
    key = next(name for name in KEYS if name in header)
    for row in rows:
        patient = row[key] if key == "patient_id" else patient_of.get(row[key], "")
        if patient:
            table[patient].append(row)
    if not table:
        raise DataError(f"label table '{path}': no {key} matches a DICOM file")
    return table


def _majority(rows: Rows, column: str, path: Path) -> str:
    if column not in rows[0]:
        raise DataError(f"label table '{path}' has no column '{column}'", "Name the column with --label-column")
    return Counter(row[column] for row in rows).most_common(1)[0][0]


def deal_skewed(label_of: dict[str, str], sites: int, alpha: float, seed: int) -> list[list[str]]:
    """Each class dealt by its own Dirichlet draw; an empty site gets a patient of the largest.

    ``label_of``: label of each patient, at least one a site. Returns the patients of each site.
    """
    rng = np.random.default_rng(seed)
    deal: list[list[str]] = [[] for _ in range(sites)]
    for label in sorted(set(label_of.values())):
        members = [p for p in sorted(label_of) if label_of[p] == label]
        shares = rng.dirichlet([alpha] * sites)
        for index in rng.permutation(len(members)):
            deal[int(rng.choice(sites, p=shares))].append(members[index])
    while not all(deal):
        next(d for d in deal if not d).append(max(deal, key=len).pop())
    return deal


def _write_site(
    folder: Path,
    name: str,
    patients: list[str],
    files: dict[str, list[Path]],
    table: dict[str, Rows],
    header: list[str],
) -> None:
    create_simulated_site(folder, name, name.replace("-", " ").capitalize())
    for number, patient in enumerate(patients):
        target = folder / "dicom" / f"{number:05d}"
        target.mkdir(parents=True)
        for index, path in enumerate(files[patient]):
            _link(path, target / f"{index:06d}")
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        for patient in patients:
            writer.writerows(table[patient])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
