"""Ingest: a site's DICOM folder and labels become the cohort of a study."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.ingest.cohort import (
    EXAMPLE,
    FORMAT,
    PATIENT,
    Cohort,
    cohort_folder,
    held_out_fold,
    is_held_out,
    new_manifest,
    reusable_cohort,
)
from client.ingest.distributions import distributions
from client.ingest.geometry import Series, build_series
from client.ingest.index import ScanIndex
from client.ingest.labels import ID_COLUMNS, Labels, parse_labels, read_table
from client.ingest.plausibility import BIN_HU, BINS, LOWEST_HU
from client.ingest.pool import Workers, available_cores, start_workers
from client.ingest.records import Reason, Skip
from client.ingest.render import Rendered, Unusable, make_planes, render_job
from client.ingest.report import IngestReport, account, class_counts, study_identity
from client.ingest.report_page import REPORT_JSON, report_files
from client.ingest.scan import Entry, Scanned, fingerprint, scan, walk
from client.ingest.select import Chosen, choose_series, fold_of
from client.ingest.store import CohortWriter, Seal, npy, only_ingest
from client.ingest.structures import structure_labels
from client.ingest.subgroups import make_table
from client.keys import SiteKey, load_or_make_key
from client.site import Site
from common.errors import DataError, from_os_error
from common.study import Study

Progress = Callable[[int, int], None]
_EDGES = LOWEST_HU + BIN_HU * np.arange(-1, BINS)
_MANY_SLICES = 128  # fewer are decoded sooner than processes start


@dataclass(frozen=True)
class Source:
    """What an ingest reads: the DICOM folder, and the label table unless the study names a structure."""

    dicom: Path
    labels: Path


@dataclass(frozen=True)
class _Placed:
    """A series in the store: its planes begin at index ``first``. ``histogram``: HU, as ``plausibility`` bins them."""

    chosen: Chosen
    first: int
    histogram: NDArray[np.int64]


@dataclass(frozen=True)
class _Labelled:
    """Labels, the label files that were used, and those that were not."""

    labels: Labels
    used: frozenset[str]
    skips: list[Skip]


def ingest(
    site: Site,
    study: Study,
    progress: Progress | None = None,
    workers: int | None = None,
    *,
    dicom: Path | None = None,
    labels: Path | None = None,
    reuse: bool = True,
) -> IngestReport:
    """Make the cohort of ``study`` at ``site``, or reuse it when study, files and labels are unchanged.

    ``progress`` is called with (done, total), counted in files: each is looked at once for its header and
    once for its pixels. ``workers``: processes or threads, as many as cores by default.
    ``dicom`` and ``labels`` are taken instead of the site's. With ``reuse`` off the cohort is made anew.
    Raises DataError when the folder or the labels can't be used, SiteError while another ingest runs,
    StorageError when the disk is full. A failed ingest leaves the former cohort as it was.
    """
    start = time.monotonic()
    source = Source(dicom or site.dicom_dir, labels or site.labels_file)
    try:
        return _ingest(_Build(site, study, source, progress or _silent, start), workers, reuse=reuse)
    except OSError as error:
        raise from_os_error(error) from error


def _silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


def _ingest(build: _Build, workers: int | None, *, reuse: bool) -> IngestReport:
    entries, skips = _walk(build.source.dicom)
    table, labels = b"", None
    if not build.study.task.structure:  # a table that can't be used is told before anything is read
        table = read_table(build.source.labels)
        labels = parse_labels(table, build.study.task, str(build.source.labels))
    digest = source_digest(entries, table)
    with only_ingest(build.site.cohorts_dir):
        key = load_or_make_key(build.site.key_file)
        former = reusable_cohort(build.site, build.study, digest) if reuse else None
        report = _former_report(former, build.study, build.start)
        if report is not None:
            return report
        with start_workers(workers or available_cores()) as pool:
            return build.run(pool, key, entries, skips, labels, digest)


def source_digest(entries: list[Entry], table: bytes) -> str:
    """What a cohort's manifest says of the files and the label table (b"" for none) that it was made of."""
    return fingerprint(entries, f"{FORMAT}\0".encode() + table)


def _walk(root: Path) -> tuple[list[Entry], list[Skip]]:
    remedy = "Give the folder of the DICOM export, or set data.dicom in site.toml to it"
    if not root.is_dir():
        raise DataError(f"DICOM folder '{root}' does not exist", remedy)
    entries, skips = walk(root)
    if not entries:
        raise DataError(f"DICOM folder '{root}' holds no readable file", remedy)
    return entries, skips


def _former_report(cohort: Cohort | None, study: Study, start: float) -> IngestReport | None:
    """The report of a cohort on disk that fits, if it can be read; of what is held out it says what holds now."""
    if cohort is None:
        return None
    with contextlib.suppress(DataError):  # damaged: made anew
        report = IngestReport.from_json(cohort.read_file(REPORT_JSON))
        return dataclasses.replace(
            report,
            held_out=int(cohort.held_out.sum()),
            classes=class_counts(cohort.examples, cohort.held_out, study.task.classes),
            reused=True,
            seconds=time.monotonic() - start,
        )
    return None


@dataclass(frozen=True)
class _Build:
    """One ingest: what it needs all along."""

    site: Site
    study: Study
    source: Source
    progress: Progress
    start: float

    def run(
        self,
        pool: Workers,
        key: SiteKey,
        entries: list[Entry],
        unread: list[Skip],
        labels: Labels | None,
        digest: str,
    ) -> IngestReport:
        """Scan, label, choose, render, write; returns the report of a cohort that is in its place."""
        with ScanIndex(self.site.folder / "scan.sqlite", key, self.source.dicom.resolve()) as index:
            scanned = scan(self.source.dicom, entries, index, pool, lambda done, total: self.progress(done, 2 * total))
        series, refused = build_series(scanned.headers)
        labelled = self._label(scanned, series, labels)
        chosen, unchosen = choose_series(series, labelled.labels, self.study)
        skips = [*unread, *scanned.skips, *refused, *labelled.skips, *unchosen]
        if series and not chosen and all(skip.reason == Reason.NO_LABEL for skip in unchosen):
            raise self._nothing_labelled()
        shape = (len(self.study.input.windows), self.study.input.size, self.study.input.size)
        seal = Seal.new(key, self.study.cohort_digest) if self.site.config.data.encrypt else None
        with CohortWriter(cohort_folder(self.site, self.study), shape, seal) as writer:
            placed, undecoded = self._render(pool, chosen, writer, scanned.files)
            skips += undecoded
            files = scanned.files + len(unread)
            if not placed:
                raise self._nothing_usable(skips, files)
            examples, patients = _tables(placed, self.study, key)
            used = labelled.used.union(header.path for one in placed for header in one.chosen.series.headers)
            report = IngestReport(
                study=study_identity(self.study),
                files=account(skips, used, files, dataclasses.asdict(scanned.changes)),
                labels=labelled.labels.report(series, self.study.task),
                encrypted=seal is not None,
                skips=tuple(skip for skip in skips if skip.path not in used),
                seconds=time.monotonic() - self.start,
                **_findings(placed, examples, patients, self.study),
            )
            pages = report_files(report, self.study, examples, patients, writer.planes())
            manifest, more = self._subgroups(placed, examples)
            writer.commit(examples, patients, new_manifest(self.study, digest) | manifest, pages | more)
        return report

    def _subgroups(self, placed: list[_Placed], examples: NDArray[np.void]) -> tuple[dict[str, Any], dict[str, bytes]]:
        """What the manifest says of the bands that the site permits to be kept, and their file; nothing without any."""
        names = self.site.config.policy.subgroups
        if not names:
            return {}, {}
        ends = np.cumsum([len(one.chosen.labels) for one in placed])
        rows = [int(examples["patient"][end - 1]) for end in ends]
        content = npy(make_table(self.source.dicom, [one.chosen.series for one in placed], rows, names))
        digest = hashlib.sha256(content).hexdigest()
        return {"subgroups": {"names": list(names), "sha256": digest}}, {"subgroups.npy": content}

    def _label(self, scanned: Scanned, series: list[Series], labels: Labels | None) -> _Labelled:
        """Labels from the table, or from the structure sets of the folder."""
        if labels is not None:
            kinds = {"rtstruct": "RT Structure Set Storage", "seg": "Segmentation Storage"}
            skips = [Skip(one.path, Reason.NOT_CT, kinds[one.kind]) for one in scanned.annotations]
            return _Labelled(labels, frozenset(), skips)
        found = structure_labels(scanned.annotations, series, self.source.dicom, self.study.task)
        return _Labelled(found.labels, frozenset(found.used), list(found.skips))

    def _render(
        self, pool: Workers, chosen: list[Chosen], writer: CohortWriter, files: int
    ) -> tuple[list[_Placed], list[Skip]]:
        """Write the planes of each series as they come; files without pixels to read count as done."""
        jobs = (render_job(self.source.dicom, one, self.study) for one in chosen)
        results = _map(pool, chosen)(make_planes, jobs)
        done = 2 * files - sum(len(_paths(one)) for one in chosen)
        placed: list[_Placed] = []
        skips: list[Skip] = []
        for one, result in zip(chosen, results, strict=True):
            if isinstance(result, Unusable):
                skips += [Skip(path, result.reason, result.detail) for path in _paths(one)]
            else:
                placed.append(_Placed(one, writer.add(result.planes), result.histogram))
            done += len(_paths(one))
            self.progress(min(done, 2 * files), 2 * files)
        return placed, skips

    def _nothing_labelled(self) -> DataError:
        task = self.study.task
        if task.structure:
            return DataError(
                f"no RTSTRUCT or segmentation in '{self.source.dicom}' draws '{task.structure}' on its CT",
                "Check task.structure in the study, and that the structure sets are part of the export",
            )
        column = ID_COLUMNS[task.label_level]
        return DataError(
            f"no row of '{self.source.labels}' matches the data: its column '{column}' names none of the CT "
            f"in '{self.source.dicom}'",
            "Check that the label table belongs to this export",
        )

    def _nothing_usable(self, skips: list[Skip], files: int) -> DataError:
        refused = account(skips, frozenset(), files).refused
        shown = ", ".join(f"{count} {code}" for code, count in sorted(refused.items(), key=lambda item: -item[1]))
        return DataError(
            f"DICOM folder '{self.source.dicom}' holds no CT series that can be used (files: {shown})",
            "Check the export",
        )


def _map(pool: Workers, chosen: list[Chosen]) -> Callable[..., Iterator[Rendered | Unusable]]:
    """How the series are worked on: in threads where no file has to be parsed again or decoded, else in processes,
    which a decoder may take down, unless they are few.
    """
    parsed = [one for one in chosen if any(header.pixels is None for header in one.series.headers)]
    if not parsed:
        return pool.map_threads
    return pool.map_apart if sum(len(one.series.headers) for one in parsed) >= _MANY_SLICES else map


def _paths(chosen: Chosen) -> frozenset[str]:
    return frozenset(header.path for header in chosen.series.headers)


def _tables(placed: list[_Placed], study: Study, key: SiteKey) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """The cohort's tables of examples and patients; patients in the order in which they come."""
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
    pseudonyms = b"".join(key.pseudonym("patient", patient_id) for patient_id in numbers)
    patients["pseudonym"] = np.frombuffer(pseudonyms, np.uint8).reshape(len(numbers), -1)
    patients["fold"] = [fold_of(study.evaluation, patient_id) for patient_id in numbers]
    lowest = np.full(len(numbers), len(study.task.classes))
    highest = np.full(len(numbers), -1)
    np.minimum.at(lowest, examples["patient"], examples["label"])
    np.maximum.at(highest, examples["patient"], examples["label"])
    patients["label"] = np.where(lowest == highest, lowest, -1)
    return examples, patients


def _findings(
    placed: list[_Placed], examples: NDArray[np.void], patients: NDArray[np.void], study: Study
) -> dict[str, Any]:
    """What the report says of the cohort, by the names of ``IngestReport``."""
    series = [one.chosen.series for one in placed]
    histogram = sum((one.histogram for one in placed), np.zeros(BINS, np.int64))
    held_out = is_held_out(patients, held_out_fold(study))
    return {
        "series": len(placed),
        "corrected": dict(Counter(re.split(r" \d", note)[0] for one in series for note in one.notes)),
        "chosen_by": dict(Counter(one.chosen.decided_by for one in placed)),
        "studies": len({(one.patient_id, one.headers[0].study_uid) for one in series}),
        "patients": len(patients),
        "held_out": int(held_out.sum()),
        "examples": len(examples),
        "classes": class_counts(examples, held_out, study.task.classes),
        "distributions": distributions(series, _EDGES, histogram),
    }
