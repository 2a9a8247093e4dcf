"""Whether a site's runner is there: it holds a lock in ``SITE/runner`` as long as it lives, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LOCK = "runner.lock"


@contextlib.contextmanager
def hold(home: Path) -> Iterator[bool]:
    """Hold the lock of the runner that works in ``home``; False if another one does."""
    handle = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _lock(handle)
    finally:
        os.close(handle)


def is_held(home: Path) -> bool:
    """Whether a runner works in ``home``. OSError if that can't be told."""
    try:
        handle = os.open(home / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
