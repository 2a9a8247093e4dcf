"""The audit of a page: ``actions.jsonl``, a JSON line an action, readable by its owner alone."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict
from pathlib import Path

from common.web.gate import Action


class Journal:
    """Appends actions to ``path``; each is on disk before the next is taken. OSError passes through."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()

    def __call__(self, action: Action) -> None:
        entry = asdict(action) | {"time": action.time.isoformat(timespec="milliseconds")}
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, line)
                os.fsync(handle)
            finally:
                os.close(handle)
