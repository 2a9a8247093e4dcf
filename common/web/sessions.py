"""Who is logged in: sessions in this process's memory, named by a signed cookie.

A session's name is 32 random bytes, made anew at each login, so that a name planted beforehand is worth nothing. The
cookie holds it with an HMAC under a key of this process: a forged one is refused before it is looked up, and none
outlives the process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.web.accounts import Role

IDLE_SECONDS = 8 * 3600.0
WHOLE_SECONDS = 24 * 3600.0
MOST = 1000


@dataclass
class Session:
    """One login. ``csrf``: what a request that changes something must carry. ``proof``: the account's hash at login.

    ``said``: messages to be shown on the next page, as (kind, text).
    """

    user: str
    role: Role
    proof: str = ""
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    begun: float = 0.0
    seen: float = 0.0
    said: list[tuple[str, str]] = field(default_factory=list)


class Sessions:
    """All sessions. ``clock``: seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._key, self._lock = clock, secrets.token_bytes(32), threading.Lock()
        self._found: dict[str, Session] = {}

    def begin(self, session: Session) -> str:
        """The cookie of a new session. The oldest give way beyond ``MOST``."""
        name = secrets.token_urlsafe(32)
        session.begun = session.seen = self._clock()
        with self._lock:
            self._found[name] = session
            while len(self._found) > MOST:
                del self._found[next(iter(self._found))]
        return f"{name}.{self._signature(name)}"

    def find(self, cookie: str, *, touch: bool = True) -> Session | None:
        """The session of a cookie; None if it is forged, over or unknown. ``touch``: it is in use."""
        name = self._name(cookie)
        with self._lock:
            session = self._found.get(name)
            if session is None:
                return None
            now = self._clock()
            if now - session.seen > IDLE_SECONDS or now - session.begun > WHOLE_SECONDS:
                del self._found[name]
                return None
            if touch:
                session.seen = now
            return session

    def end(self, cookie: str) -> None:
        """Forget the session of a cookie."""
        with self._lock:
            self._found.pop(self._name(cookie), None)

    def _name(self, cookie: str) -> str:
        """The name in a cookie, or "" unless this process signed it."""
        name, _, signature = cookie.partition(".")
        return name if hmac.compare_digest(signature.encode(), self._signature(name).encode()) else ""

    def _signature(self, name: str) -> str:
        return hmac.new(self._key, name.encode(), hashlib.sha256).hexdigest()
