"""How often a login may fail: five times, then a wait that doubles up to five minutes."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

FREE = 5
LONGEST_WAIT = 300.0
FORGOTTEN_SECONDS = 3600.0
MOST = 10_000


class Throttle:
    """Failures by key: an address, or an account's name. ``clock``: seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, *keys: str) -> float:
        """Seconds until one may try again; 0 when one may now."""
        now = self._clock()
        with self._lock:
            return max(self._wait(key, now) for key in keys)

    def failed(self, *keys: str) -> None:
        """Count a failure of each key."""
        now = self._clock()
        with self._lock:
            for key in keys:
                count, last = self._failures.pop(key, (0, now))
                self._failures[key] = (1 if now - last > FORGOTTEN_SECONDS else count + 1, now)
            while len(self._failures) > MOST:
                self._failures.popitem(last=False)

    def succeeded(self, *keys: str) -> None:
        """Forget the failures of each key."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)

    def _wait(self, key: str, now: float) -> float:
        count, last = self._failures.get(key, (0, now))
        if count < FREE:
            return 0.0
        return max(0.0, last + min(LONGEST_WAIT, 2.0 ** min(count - FREE, 10)) - now)
