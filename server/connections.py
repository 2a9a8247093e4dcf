"""Connections of the public listener that can't be held open for nothing.

uvicorn bounds neither how long a client may take over the head of a request, nor how long that head is, nor how
many connections one address may have. Here a connection is cut when

1. its address has ``per_address`` others already;
2. ``head_seconds`` pass between its start, or the first byte after a response, and the end of a request's head;
3. a head is longer than ``HEAD_BYTES``.

An idle connection after a response is uvicorn's to close (``timeout_keep_alive``), and a body is bounded in
``server.listener``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 << 10


def bounded(per_address: int, head_seconds: float) -> type[HttpToolsProtocol]:
    """The protocol class of one listener."""
    open_now: Counter[str] = Counter()

    class Bounded(HttpToolsProtocol):
        """uvicorn's protocol within the bounds of the module."""

        _address = ""
        _timer: asyncio.TimerHandle | None = None
        _head = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            open_now[self._address] += 1
            if open_now[self._address] > per_address:
                transport.abort()
                return
            self._start_waiting()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
                return
            self._start_waiting()
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.transport.abort()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._head = 0

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            open_now[self._address] -= 1
            if open_now[self._address] <= 0:
                del open_now[self._address]
            super().connection_lost(exc)

        def _start_waiting(self) -> None:
            if self._timer is None:
                self._timer = self.loop.call_later(head_seconds, self.transport.abort)

        def _stop_waiting(self) -> None:
            self._head = 0
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded
