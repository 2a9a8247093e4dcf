"""One new CT study, read by the very path of ingest: same scan, geometry, choice of series, pixels and planes.

Nothing is kept: what the scan found lies, sealed with a key that ends with the process, in a temporary folder.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.ingest.geometry import Series, build_series
from client.ingest.index import ScanIndex
from client.ingest.labels import Labels
from client.ingest.pool import available_cores, start_workers
from client.ingest.records import EXPLANATIONS, Reason, Skip
from client.ingest.render import Unusable, make_planes, render_job
from client.ingest.report import FileCounts, account
from client.ingest.scan import Entry, Scanned, scan, walk
from client.ingest.select import Chosen, choose_series
from client.keys import SiteKey
from common.errors import DataError
from common.study import Study

Progress = Callable[[int, int], None]
_REMEDY = "Give the DICOM folder, or the zip file, of one CT study of one patient"


@dataclass(frozen=True)
class NewStudy:
    """The series that a model is asked about.

    ``root``: what the sources of its headers are relative to. ``planes``: uint8 [planes, windows, size, size].
    ``files``: what became of every file that was given.
    """

    root: Path
    chosen: Chosen
    planes: NDArray[np.uint8]
    files: FileCounts

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Examples as the network takes them, uint8 [n, 3 * windows, size, size]; channels as in ``Cohort.pixels``."""
        stacks = self.planes[self.chosen.plan.examples]
        count, neighbours, windows, *side = stacks.shape
        channels: NDArray[np.uint8] = stacks.swapaxes(1, 2).reshape(count, windows * neighbours, *side)
        return channels

    @property
    def centres(self) -> NDArray[np.uint8]:
        """The centre plane of each example in the study's first window, uint8 [n, size, size]."""
        centres: NDArray[np.uint8] = self.planes[self.chosen.plan.examples[:, 1], 0]
        return centres


def read_new_study(source: Path, study: Study, progress: Progress) -> NewStudy:
    """Read ``source``, a folder or a zip file. Raises DataError, naming the reasons, if there is nothing to ask about."""
    root, entries, unread = _entries(source)
    with (
        tempfile.TemporaryDirectory(prefix="fedct-") as folder,
        start_workers(available_cores()) as pool,
        ScanIndex(Path(folder) / "scan.sqlite", SiteKey.from_secret(secrets.token_bytes(32)), root.resolve()) as index,
    ):
        scanned = scan(root, entries, index, pool, progress)
    series, refused = build_series(scanned.headers)
    skips = [*unread, *scanned.skips, *refused]
    skips += [Skip(one.path, Reason.NOT_CT) for one in scanned.annotations]
    files = scanned.files + len(unread)
    _only_one(source, scanned)
    chosen, others = _choose(series, study)
    if chosen is None:
        raise _nothing(source, [*skips, *others], files)
    rendered = make_planes(render_job(root, chosen, study))
    if isinstance(rendered, Unusable):
        detail = f" ({rendered.detail})" if rendered.detail else ""
        raise DataError(f"'{source}': {EXPLANATIONS[rendered.reason]}{detail} [{rendered.reason.value}]", _REMEDY)
    used = frozenset(header.path for header in chosen.series.headers)
    return NewStudy(root, chosen, rendered.planes, account([*skips, *others], used, files))


def _entries(source: Path) -> tuple[Path, list[Entry], list[Skip]]:
    """What to scan, and where its paths begin."""
    if source.is_file():
        status = source.stat()
        return source.parent, [Entry(source.name, status.st_size, status.st_mtime_ns)], []
    if not source.is_dir():
        raise DataError(f"'{source}' does not exist", _REMEDY)
    entries, skips = walk(source)
    if not entries:
        raise DataError(f"'{source}' holds no readable file", _REMEDY)
    return source, entries, skips


def _only_one(source: Path, scanned: Scanned) -> None:
    """Raise DataError if there is CT of several patients or studies: whose answer would it be?"""
    studies = {(header.patient_id, header.study_uid) for header in scanned.headers}
    if len(studies) > 1:
        patients = len({patient for patient, _ in studies})
        raise DataError(
            f"'{source}' holds {len(studies)} CT studies of {patients} patients; expected one study", _REMEDY
        )


def _choose(series: list[Series], study: Study) -> tuple[Chosen | None, list[Skip]]:
    """The series that ingest would take for a label of the whole study."""
    task = study.task.model_copy(update={"label_level": "study", "structure": ""})
    labels = Labels({one.headers[0].study_uid: 0 for one in series})
    chosen, others = choose_series(series, labels, study.model_copy(update={"task": task}))
    return (chosen[0] if chosen else None), others


def _nothing(source: Path, skips: list[Skip], files: int) -> DataError:
    refused = account(skips, frozenset(), files).refused
    shown = "; ".join(
        f"{count} x {EXPLANATIONS[Reason(code)]} [{code}]"
        for code, count in sorted(refused.items(), key=lambda i: -i[1])
    )
    return DataError(f"'{source}' holds no CT series that the study can use: {shown}", _REMEDY)
