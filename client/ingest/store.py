"""Writing a cohort whole or not at all, in clear or sealed.

Everything goes to a temporary folder beside the target, is flushed to the disk and renamed. A process
killed at any moment leaves the old cohort, the new one or none, and leftovers that the next ingest
removes. One ingest at a time runs at a site.

Sealed, a cohort has the same files with ``.sealed`` behind their names, and ``encrypted.json`` in clear,
which says so. Planes are records of one size, each sealed on its own, so that any can be read alone;
what a seal is bound to holds the cohort, this writing of it, and the file or number of the plane, so
records can't be swapped, also not with those of another cohort or of an earlier writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from client.keys import OVERHEAD, SiteKey
from common.errors import SiteError
from common.files import fsync_folder

MARKER = "encrypted.json"
SEALED = ".sealed"
_PARTIAL, _OLD = ".partial-", ".old-"


@dataclass(frozen=True)
class Seal:
    """Seals the files of one writing of one cohort. ``writing``: 32 random hex digits."""

    key: SiteKey
    cohort: str
    writing: str

    @classmethod
    def new(cls, key: SiteKey, cohort_digest: str) -> Self:
        """For a cohort that is about to be written."""
        return cls(key, cohort_digest[:16], secrets.token_hex(16))

    @classmethod
    def of_folder(cls, folder: Path, key: SiteKey) -> Self:
        """For the cohort in ``folder``. Raises OSError or ValueError if its marker is missing or damaged."""
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if not isinstance(marker, dict) or not isinstance(marker.get("writing"), str):
            raise ValueError(f"{MARKER} is not as written")  # noqa: TRY004  content, not a type
        return cls(key, folder.name, marker["writing"])

    def marker(self) -> bytes:
        """Content of the file in clear that says that the rest is sealed."""
        return json.dumps({"cipher": "AES-256-GCM", "key": "the site key", "writing": self.writing}).encode()

    def seal(self, content: bytes, name: str) -> bytes:
        """``content`` of the file or record ``name``, ``OVERHEAD`` bytes longer."""
        return self.key.seal(content, self._context(name))

    def open(self, sealed: bytes, name: str) -> bytes:
        """The content. Raises SealBroken."""
        return self.key.open(sealed, self._context(name))

    def _context(self, name: str) -> bytes:
        return f"cohort {self.cohort} {self.writing} {name}".encode()


class SealedPlanes:
    """Sealed planes that are read and opened where they are indexed; ``shape`` as the array would have."""

    dtype = np.dtype(np.uint8)

    def __init__(self, path: Path, shape: tuple[int, int, int, int], seal: Seal) -> None:
        """Raises ValueError if the file has another size than ``shape`` says."""
        self.shape = shape
        self._seal = seal
        record = int(np.prod(shape[1:])) + OVERHEAD
        if path.stat().st_size != shape[0] * record:
            raise ValueError(f"{path.name} holds {path.stat().st_size} bytes, expected {shape[0] * record}")
        self._records = np.memmap(path, np.uint8, "r", shape=(shape[0], record))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Planes [*indices.shape, windows, size, size]; one that is wanted twice is opened once.

        Raises SealBroken if a record was altered or moved.
        """
        numbers, places = np.unique(indices, return_inverse=True)
        planes = np.empty((len(numbers), *self.shape[1:]), dtype=np.uint8)
        for row, number in enumerate(numbers.tolist()):
            content = self._seal.open(self._records[number].tobytes(), plane_name(number))
            planes[row] = np.frombuffer(content, np.uint8).reshape(self.shape[1:])
        wanted: NDArray[np.uint8] = planes[places.reshape(np.shape(indices))]
        return wanted


Planes = NDArray[np.uint8] | SealedPlanes
"""uint8 [planes, windows, size, size] to be indexed with an array of numbers; stays on disk until it is."""


def plane_name(number: int) -> str:
    """What the seal of a plane is bound to, within its cohort."""
    return f"planes {number}"


def read_file(folder: Path, name: str, seal: Seal | None) -> bytes:
    """Content of the cohort's file ``name``. Raises OSError, or SealBroken."""
    if seal is None:
        return (folder / name).read_bytes()
    return seal.open((folder / (name + SEALED)).read_bytes(), name)


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

    def __init__(self, target: Path, plane_shape: tuple[int, int, int], seal: Seal | None = None) -> None:
        """``target``: the cohort's folder; ``plane_shape``: windows, size, size; ``seal``: None writes in clear."""
        self._target = target
        self._shape = plane_shape
        self._seal = seal
        self._count = 0
        self._folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=target.parent))
        self._planes: BinaryIO = _create(self._path("planes.npy"))
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
        if self._seal is None:
            self._planes.write(np.ascontiguousarray(planes).data)
        else:
            for number, plane in enumerate(planes, start=first):
                self._planes.write(self._seal.seal(plane.tobytes(), plane_name(number)))
        self._count += len(planes)
        return first

    def planes(self) -> Planes:
        """The planes added so far, to be read again."""
        self._planes.flush()
        shape = (self._count, *self._shape)
        path = self._path("planes.npy")
        if self._seal is not None:
            return SealedPlanes(path, shape, self._seal)
        return np.memmap(path, np.uint8, "r", offset=path.stat().st_size - int(np.prod(shape)), shape=shape)

    def commit(
        self,
        examples: NDArray[np.void],
        patients: NDArray[np.void],
        manifest: Mapping[str, Any],
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        """Complete the files, add digests and plane count to ``manifest``, and put the cohort in its place.

        ``files``: further ones by name, written and sealed as the tables are.
        """
        self._planes.seek(0)
        self._write_header()
        _flush(self._planes)
        self._planes.close()
        digests = {}
        for name, table in (("examples", examples), ("patients", patients)):
            content = npy(table)
            self._write(f"{name}.npy", content)
            digests[name] = hashlib.sha256(content).hexdigest()
        for name, content in (files or {}).items():
            self._write(name, content)
        whole = dict(manifest) | {"sha256": digests, "planes": self._count}
        self._write("manifest.json", json.dumps(whole, indent=1, sort_keys=True).encode())
        if self._seal is not None:
            _write_new(self._folder / MARKER, self._seal.marker())
        fsync_folder(self._folder)
        self._replace()

    def _path(self, name: str) -> Path:
        return self._folder / (name if self._seal is None else name + SEALED)

    def _write(self, name: str, content: bytes) -> None:
        _write_new(self._path(name), content if self._seal is None else self._seal.seal(content, name))

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
        """The .npy header; numpy pads it so that a grown first axis takes the same bytes. Sealed planes have none."""
        if self._seal is None:
            header = {"descr": "|u1", "fortran_order": False, "shape": (self._count, *self._shape)}
            np.lib.format.write_array_header_1_0(self._planes, header)


def npy(table: NDArray[np.void]) -> bytes:
    """A table as numpy writes it to a file."""
    file = io.BytesIO()
    np.save(file, table, allow_pickle=False)
    return file.getvalue()


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write_new(path: Path, content: bytes) -> None:
    with _create(path) as file:
        file.write(content)
        _flush(file)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
