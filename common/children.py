"""Processes that work for another one: they leave Ctrl-C to it, and end when it does, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def begin_child() -> None:
    """Call first in a spawned process, as the initializer of its pool.

    A parent that is killed can't end its children; without this they would go on, and hold the pipes that
    whoever started the parent may be reading.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
