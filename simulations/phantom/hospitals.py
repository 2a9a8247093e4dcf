"""Write a consortium of phantom hospitals: one site folder each, with DICOM, labels and ``site.toml``.

::

    OUT/
      phantom.json             what was asked for; a re-run must ask for the same
      hospital-1/
        site.toml, labels.csv  written last: a hospital without them is not finished
        dicom/PH-0007/series/  a patient is here whole or not at all

Each patient is drawn from the seed and its own number, so the bytes do not depend on the number of
workers, on interruptions, or on the order of work. They do depend on the versions of numpy and scipy.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from client.site import Site, load_site
from common.children import begin_child
from common.errors import RunError, UsageError, from_os_error
from common.files import fsync_folder, write_atomic
from simulations.phantom.dealing import class_counts, deal
from simulations.phantom.dicom import write_series
from simulations.phantom.patient import Patient, examine, key_image, scan
from simulations.phantom.scanner import scanner_of
from simulations.phantom.severity import LABELS
from simulations.simulated_site import create_simulated_site

FORMAT = 1  # raise it when the same request would give other bytes
MANIFEST = "phantom.json"
COLUMNS = ("patient_id", "label", "age", "sex", "level", "height_loss_percent", "bulge_mm", "key_image")


@dataclass(frozen=True)
class Request:
    """What was asked for; it fixes every byte."""

    format: int
    patients: int
    counts: tuple[int, int, int]
    sites: int
    seed: int


def write_hospitals(
    out: Path,
    *,
    patients: int,
    counts: tuple[int, ...] | None,
    sites: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> list[Site]:
    """Make ``OUT/hospital-1`` to ``hospital-N``, and return them in that order.

    ``counts``: patients with compression, burst and normal spine, adding up to ``patients`` (None: as
    in the literature). ``progress`` is called with (patients done, patients in all). ``workers``:
    processes, by default one a core. Continues an interrupted run, and returns at once if all is there.
    Raises UsageError for arguments out of range and for an ``out`` that holds something else,
    StorageError if the disk is full.
    """
    if seed < 0 or (workers is not None and workers < 1):
        raise UsageError(
            f"seed {seed}, workers {workers}: expected a seed of at least 0 and workers of at least 1", "Correct them"
        )
    request = Request(FORMAT, patients, class_counts(patients, counts), sites, seed)
    people = enrol(request)
    try:
        _claim(out, request)
        missing = [person for person in people if not _patient_folder(out, person).is_dir()]
        done = len(people) - len(missing)
        if progress is not None:
            progress(done, len(people))
        for _ in _write_all(out, missing, workers or os.cpu_count() or 1):
            done += 1
            if progress is not None:
                progress(done, len(people))
        return [_finish(out, site, [p for p in people if p.site == site]) for site in range(sites)]
    except OSError as error:
        error.filename = error.filename or str(out)
        raise from_os_error(error) from error


def enrol(request: Request) -> list[Patient]:
    """All patients by number: who has what and goes where. Numbers tell neither class nor hospital."""
    rng = np.random.default_rng(np.random.SeedSequence([request.seed, 0]))
    table = deal(request.counts, request.sites, rng)
    scanners = [scanner_of(site, rng) for site in range(request.sites)]
    places = [
        (site, label)
        for site in range(request.sites)
        for label, count in zip(LABELS, table[site], strict=True)
        for _ in range(count)
    ]
    numbers = rng.permutation(len(places)) + 1
    people = [
        Patient(request.seed, int(number), site, label, scanners[site])
        for number, (site, label) in zip(numbers, places, strict=True)
    ]
    return sorted(people, key=lambda person: person.number)


def _claim(out: Path, request: Request) -> None:
    """Make ``out`` ours by its manifest, or find that it already is."""
    text = json.dumps(asdict(request), sort_keys=True) + "\n"
    path = out / MANIFEST
    if path.is_file():
        found = path.read_text(encoding="utf-8", errors="replace")
        if found == text:
            return
        raise UsageError(
            f"'{out}' holds phantom hospitals made with other settings ({found.strip()}); expected {text.strip()}",
            "Give another folder, or remove this one",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists and is not an empty folder", "Give another folder; nothing is overwritten")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode(), mode=0o644)


def _site_folder(out: Path, site: int) -> Path:
    return out / f"hospital-{site + 1}"


def _patient_folder(out: Path, person: Patient) -> Path:
    return _site_folder(out, person.site) / "dicom" / person.patient_id


def _write_patient(out: Path, person: Patient) -> None:
    """Scan one patient and put the files in place whole."""
    final = _patient_folder(out, person)
    partial = final.with_name(f".{final.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        findings, _ = examine(person)
        write_series(partial / "series", person, findings, scan(person))
        partial.rename(final)
        fsync_folder(final.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write_all(out: Path, people: list[Patient], workers: int) -> Iterator[None]:
    """Write the patients, in this process or several; yields after each."""
    if min(workers, len(people)) <= 1:
        for person in people:
            _write_patient(out, person)
            yield
        return
    with _pool(min(workers, len(people))) as pool:
        waiting: list[Future[None]] = [pool.submit(_write_patient, out, person) for person in people]
        try:
            for future in as_completed(waiting):
                future.result()
                yield
        except BrokenProcessPool:
            raise RunError(
                "a worker process died while writing phantom patients",
                "Check the memory, then run the same command again; finished patients are kept",
            ) from None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that leave Ctrl-C to this one: it drops what waits and lets the patients at hand finish."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=begin_child)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(out: Path, site: int, people: list[Patient]) -> Site:
    """Once all patients of a hospital are there: its labels, then its ``site.toml``."""
    folder = _site_folder(out, site)
    if (folder / "site.toml").is_file():
        return load_site(folder)
    for partial in (folder / "dicom").glob(".*.part"):
        shutil.rmtree(partial)
    write_atomic(folder / "labels.csv", _labels(people).encode())
    scanner = people[0].scanner
    title = f"Phantom Hospital {site + 1} ({scanner.manufacturer} {scanner.model})"
    return create_simulated_site(folder, folder.name, title)


def _labels(people: list[Patient]) -> str:
    """The label table: the two columns that a study needs, then what a reader would note."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for person in people:
        findings, _ = examine(person)
        seen = findings.severity
        writer.writerow([
            person.patient_id, person.label, findings.age, findings.sex, findings.level,
            round(100 * seen.height_loss), f"{seen.bulge_mm:.1f}", key_image(person),
        ])  # fmt: skip
    return text.getvalue()
