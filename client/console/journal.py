"""What people do on the page, on the site's audit log: kind ``page``, with the account's name.

Whoever is not logged in can make no more than ``MOST`` lines an hour, so that nobody grows the log from outside; the
next line says how many were left out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from client.audit_log import AuditLog
from common.errors import FedctError
from common.web.gate import Action

KIND = "page"
MOST, SECONDS = 30, 3600.0
logger = logging.getLogger("fedct.web")


class SiteJournal:
    """Takes the actions of the page. ``clock``: seconds that only grow."""

    def __init__(self, audit: AuditLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit, self._clock, self._lock = audit, clock, threading.Lock()
        self._begun, self._count, self._left_out = clock(), 0, 0

    def __call__(self, action: Action) -> None:
        """Put an action on the log. A log that can't be written stops the actions themselves (``client.approval``)."""
        details = {"user": action.user, "role": action.role, "from": action.address}
        details |= {"what": action.what, "note": action.note}
        if not action.user:
            left_out = self._stranger()
            if left_out is None:
                return
            details |= {"left_out": str(left_out)} if left_out else {}
        try:
            self._audit.append(KIND, {**details, "status": action.status})
        except FedctError:
            logger.exception("an action could not be put on the audit log")

    def _stranger(self) -> int | None:
        """How many lines were left out before this one; None to leave this one out too."""
        with self._lock:
            now = self._clock()
            if now - self._begun >= SECONDS:
                self._begun, self._count = now, 0
            if self._count >= MOST:
                self._left_out += 1
                return None
            self._count += 1
            left_out, self._left_out = self._left_out, 0
            return left_out
