"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: Path, *data: bytes | memoryview, mode: int = 0o600) -> None:
    """Write ``data``, one part after another, to ``path``: temporary file beside it, fsync, rename, fsync of the folder.

    A crash or a full disk leaves the old file or the new one, never a part. OSError passes through.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk does not say which file
        raise
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder``, mode 0700, that takes its place at the end, or is removed on any exception.

    OSError if ``folder`` holds anything by then. The new files are the caller's to flush, as ``write_atomic`` does.
    """
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield partial
        fsync_folder(partial)
        os.rename(partial, folder)  # onto nothing, or an empty folder
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    fsync_folder(folder.parent)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` against other processes, waiting for it; the system frees it when this one ends."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
