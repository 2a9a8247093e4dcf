"""Ingest: a site's DICOM folder and label table become the cohort of a study."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.ingest.cohort import EXAMPLE, FORMAT, PATIENT, cohort_folder, open_cohort
from client.ingest.geometry import build_series
from client.ingest.labels import ID_COLUMNS, parse_labels, read_table
from client.ingest.planes import PlanePlan, render, slices_needed
from client.ingest.pool import Workers, available_cores, start_workers
from client.ingest.records import Header, Reason, Skip
from client.ingest.report import IngestReport, count_skips
from client.ingest.scan import Entry, fingerprint, read_headers, walk
from client.ingest.select import Chosen, choose_series, is_held_out
from client.ingest.store import CohortWriter, only_ingest
from client.ingest.volume import PixelsUnreadable, read_volume
from client.site import Site
from common.errors import DataError, from_os_error
from common.study import Study, Window

Progress = Callable[[int, int], None]
_CHUNK = 64  # headers a job
_MANY_FILES, _MANY_BYTES = 4096, 256 * 2**20  # below both, starting processes takes longer than reading


@dataclass(frozen=True)
class RenderJob:
    """All that a process needs to make the planes of one series; ``affine`` is that of ``paths``."""

    root: Path
    paths: tuple[str, ...]
    rows: int
    columns: int
    affine: NDArray[np.float64]
    plan: PlanePlan
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class _Placed:
    """A series in the store: its planes begin at index ``first``."""

    chosen: Chosen
    first: int


def ingest(site: Site, study: Study, progress: Progress | None = None, workers: int | None = None) -> IngestReport:
    """Make the cohort of ``study`` at ``site``, or reuse it when study, files and labels are unchanged.

    ``progress`` is called with (done, total), counted in files: each is looked at once for its header and
    once for its pixels. ``workers``: processes, all cores by default; few files are read in this one.
    Raises DataError when the folder or the labels can't be used, SiteError while another ingest runs,
    StorageError when the disk is full. A failed ingest leaves the former cohort as it was.
    """
    start = time.monotonic()
    try:
        report = _ingest(site, study, progress or _silent, workers)
    except OSError as error:
        raise from_os_error(error) from error
    return dataclasses.replace(report, seconds=time.monotonic() - start)


def _silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


def _ingest(site: Site, study: Study, progress: Progress, workers: int | None) -> IngestReport:
    entries, skips = _walk(site.dicom_dir)
    table = read_table(site.labels_file)
    labels = parse_labels(table, study.task, str(site.labels_file))
    source = fingerprint(entries, f"{FORMAT}\0".encode() + table)
    with only_ingest(site.cohorts_dir):
        former = _reuse(site, study, source)
        if former is not None:
            return former
        many = len(entries) >= _MANY_FILES or sum(entry.size for entry in entries) >= _MANY_BYTES
        with start_workers((workers or available_cores()) if many else 1) as pool:
            return _Build(site, study, pool, progress).run(entries, skips, labels, source)


def _walk(root: Path) -> tuple[list[Entry], list[Skip]]:
    remedy = "Set data.dicom in site.toml to the folder of the DICOM export"
    if not root.is_dir():
        raise DataError(f"DICOM folder '{root}' does not exist", remedy)
    entries, skips = walk(root)
    if not entries:
        raise DataError(f"DICOM folder '{root}' holds no readable file", remedy)
    return entries, skips


def _reuse(site: Site, study: Study, source: str) -> IngestReport | None:
    """The report of the cohort on disk if it was made from the same study and files."""
    try:
        cohort = open_cohort(site, study)
        return IngestReport(**cohort.counts, reused=True) if cohort.source_digest == source else None
    except (DataError, TypeError):  # absent or damaged: made anew
        return None


@dataclass(frozen=True)
class _Build:
    """One ingest that reads the files: what it needs all along."""

    site: Site
    study: Study
    pool: Workers
    progress: Progress

    def run(self, entries: list[Entry], skips: list[Skip], labels: dict[str, int], source: str) -> IngestReport:
        """Scan, choose, render, write; returns the report of a cohort that is in its place."""
        headers, unread = self._scan(entries)
        series, refused = build_series(headers)
        chosen, unchosen = choose_series(series, labels, self.study)
        if series and not chosen and all(skip.reason == Reason.NO_LABEL for skip in unchosen):
            column = ID_COLUMNS[self.study.task.label_level]
            raise DataError(
                f"no row of '{self.site.labels_file}' matches the data: its column '{column}' names none of the CT "
                f"in '{self.site.dicom_dir}'",
                "Check that the label table belongs to this export",
            )
        files = len(entries) + len(skips)
        skips = [*skips, *unread, *refused, *unchosen]
        shape = (len(self.study.input.windows), self.study.input.size, self.study.input.size)
        with CohortWriter(cohort_folder(self.site, self.study), shape) as writer:
            placed, undecoded = self._render(chosen, writer, 2 * len(entries))
            skips += undecoded
            if not placed:
                raise _nothing_usable(self.site.dicom_dir, skips)
            examples, patients = _tables(placed, self.study)
            report = _report(files, skips, placed, (examples, patients), self.study.task.classes)
            used = frozenset[str]().union(*(one.chosen.ids for one in placed))
            report = dataclasses.replace(report, rows_without_data=len(labels) - len(used))
            writer.commit(examples, patients, _manifest(self.study, source, report))
        return report

    def _scan(self, entries: list[Entry]) -> tuple[list[Header], list[Skip]]:
        """The headers of all files, in the order of ``entries``."""
        paths = [entry.path for entry in entries]
        chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
        headers: list[Header] = []
        skips: list[Skip] = []
        for results in self.pool.map(functools.partial(read_headers, self.site.dicom_dir), chunks):
            headers += [result for result in results if isinstance(result, Header)]
            skips += [result for result in results if isinstance(result, Skip)]
            self.progress(len(headers) + len(skips), 2 * len(paths))
        return headers, skips

    def _render(self, chosen: list[Chosen], writer: CohortWriter, total: int) -> tuple[list[_Placed], list[Skip]]:
        """Write the planes of each series as they come; files without pixels to read count as done."""
        jobs = (_job(self.site.dicom_dir, one, self.study) for one in chosen)
        done = total - sum(len(one.series.headers) for one in chosen)
        placed: list[_Placed] = []
        skips: list[Skip] = []
        for one, planes in zip(chosen, self.pool.map(make_planes, jobs), strict=True):
            if planes is None:
                skips += [Skip(header.path, Reason.PIXELS_UNREADABLE) for header in one.series.headers]
            else:
                placed.append(_Placed(one, writer.add(planes)))
            done += len(one.series.headers)
            self.progress(done, total)
        return placed, skips


def _job(root: Path, one: Chosen, study: Study) -> RenderJob:
    """The job of one series, cut to the slices that its planes touch."""
    first, end = slices_needed(one.series, one.plan)
    affine = one.series.affine.copy()
    affine[:3, 3] += first * affine[:3, 0]
    _, rows, columns = one.series.shape
    paths = tuple(header.path for header in one.series.headers[first:end])
    return RenderJob(root, paths, rows, columns, affine, one.plan, study.input.windows)


def make_planes(job: RenderJob) -> NDArray[np.uint8] | None:
    """The planes of one series, uint8 [planes, windows, size, size]; None if its pixels can't be read."""
    try:
        volume = read_volume(job.root, job.paths, job.rows, job.columns)
    except PixelsUnreadable:
        return None
    return render(volume, job.affine, job.plan, job.windows)


def _nothing_usable(root: Path, skips: list[Skip]) -> DataError:
    counts, _ = count_skips(skips)
    shown = ", ".join(f"{count} {code}" for code, count in sorted(counts.items(), key=lambda item: -item[1]))
    return DataError(f"DICOM folder '{root}' holds no CT series that can be used (files: {shown})", "Check the export")


def _tables(placed: list[_Placed], study: Study) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """The tables of examples and of patients; patients are numbered in the order of ``placed``."""
    numbers: dict[str, int] = {}
    parts: list[NDArray[np.void]] = []
    for one in placed:
        part = np.zeros(len(one.chosen.labels), dtype=EXAMPLE)
        part["patient"] = numbers.setdefault(one.chosen.series.patient_id, len(numbers))
        part["label"] = one.chosen.labels
        part["planes"] = one.chosen.plan.examples + one.first
        parts.append(part)
    examples = np.concatenate(parts)
    patients = np.zeros(len(numbers), dtype=PATIENT)
    split = study.evaluation
    patients["holdout"] = [is_held_out(split.split_seed, patient_id, split.holdout) for patient_id in numbers]
    lowest = np.full(len(numbers), len(study.task.classes))
    highest = np.full(len(numbers), -1)
    np.minimum.at(lowest, examples["patient"], examples["label"])
    np.maximum.at(highest, examples["patient"], examples["label"])
    patients["label"] = np.where(lowest == highest, lowest, -1)
    return examples, patients


def _report(
    files: int,
    skips: list[Skip],
    placed: list[_Placed],
    tables: tuple[NDArray[np.void], NDArray[np.void]],
    classes: tuple[str, ...],
) -> IngestReport:
    examples, patients = tables
    skipped, skip_examples = count_skips(skips)
    counts = np.bincount(examples["label"], minlength=len(classes))
    return IngestReport(
        files_total=files,
        files_accepted=sum(len(one.chosen.series.headers) for one in placed),
        skipped=skipped,
        skip_examples=skip_examples,
        series=len(placed),
        patients=len(patients),
        patients_held_out=int(patients["holdout"].sum()),
        examples=len(examples),
        class_counts=dict(zip(classes, counts.tolist(), strict=True)),
        rows_without_data=0,
    )


def _manifest(study: Study, source: str, report: IngestReport) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "cohort_digest": study.cohort_digest,
        "code_version": importlib.metadata.version("fedct"),
        "source": source,
        "counts": report.counts(),
    }
