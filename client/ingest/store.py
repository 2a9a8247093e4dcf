"""Writing a cohort whole or not at all.

Everything goes to a temporary folder beside the target, is flushed to the disk and renamed. A process
killed at any moment leaves the old cohort, the new one or none, and leftovers that the next ingest
removes. One ingest at a time runs at a site.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from common.errors import SiteError
from common.files import fsync_folder

_PARTIAL, _OLD = ".partial-", ".old-"


@contextlib.contextmanager
def only_ingest(cohorts: Path) -> Iterator[None]:
    """Hold the site's ingest lock in ``cohorts`` and clear what a killed ingest left. Raises SiteError if taken."""
    cohorts.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(cohorts / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SiteError(f"another ingest is running in '{cohorts}'", "Wait until it has finished") from None
        for leftover in cohorts.iterdir():
            if leftover.name.startswith((_PARTIAL, _OLD)):
                shutil.rmtree(leftover)
        yield
    finally:
        os.close(descriptor)


class CohortWriter:
    """Writes one cohort; use as a context. Without ``commit`` nothing is left of it. OSError passes through."""

    def __init__(self, target: Path, plane_shape: tuple[int, int, int]) -> None:
        """``target``: the cohort's folder; ``plane_shape``: windows, size, size."""
        self._target = target
        self._shape = plane_shape
        self._count = 0
        self._folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=target.parent))
        self._planes: BinaryIO = _create(self._folder / "planes.npy")
        self._write_header()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what the caller must hear of is the first error
            self._planes.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, planes: NDArray[np.uint8]) -> int:
        """Append planes [n, windows, size, size]; returns the index of the first."""
        first = self._count
        self._planes.write(np.ascontiguousarray(planes).data)
        self._count += len(planes)
        return first

    def commit(self, examples: NDArray[np.void], patients: NDArray[np.void], manifest: dict[str, Any]) -> None:
        """Complete the files, add their digests to ``manifest``, and put the cohort in its place."""
        self._planes.seek(0)
        self._write_header()
        _flush(self._planes)
        self._planes.close()
        digests = {}
        for name, table in (("examples", examples), ("patients", patients)):
            path = self._folder / f"{name}.npy"
            with _create(path) as file:
                np.save(file, table, allow_pickle=False)
                _flush(file)
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        with _create(self._folder / "manifest.json") as file:
            file.write(json.dumps(manifest | {"sha256": digests}, indent=1, sort_keys=True).encode())
            _flush(file)
        fsync_folder(self._folder)
        self._replace()

    def _replace(self) -> None:
        old = None
        if self._target.exists():
            old = Path(tempfile.mkdtemp(prefix=_OLD, dir=self._target.parent))
            self._target.rename(old / self._target.name)
        self._folder.rename(self._target)
        fsync_folder(self._target.parent)
        if old is not None:
            shutil.rmtree(old)

    def _write_header(self) -> None:
        """The .npy header; numpy pads it so that a grown first axis takes the same bytes."""
        shape = (self._count, *self._shape)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._planes, header)


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
