"""Server-sent events: a part of a page that follows what it shows.

The browser reconnects by itself. A stream ends when the page stops, or its reader is no longer logged in.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Hashable

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from common.web.login import Door

LOOK_SECONDS = 0.5
BEAT_SECONDS = 15.0
MOST_STREAMS = 64
_streams = threading.Semaphore(MOST_STREAMS)


def stream(
    request: Request,
    stamp: Callable[[], Hashable],
    render: Callable[[], dict[str, str]],
    *,
    seconds: float = LOOK_SECONDS,
) -> Response:
    """Send what ``render`` gives, at once and each time that ``stamp`` gives another value than before.

    ``render``: HTML by the name of its event, which ``sse-swap`` names in the page. ``stamp`` is cheap and is asked every
    ``seconds``; both run in a thread. Beyond ``MOST_STREAMS`` a stream ends at once, and the browser comes again.
    """
    return StreamingResponse(
        _events(request, stamp, render, seconds), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _events(
    request: Request, stamp: Callable[[], Hashable], render: Callable[[], dict[str, str]], seconds: float
) -> AsyncIterator[str]:
    """The text of the stream."""
    stopping: threading.Event = request.app.state.stopping
    door: Door = request.app.state.door
    if not _streams.acquire(blocking=False):
        return
    try:
        last: Hashable = object()
        for turn in itertools.count():
            if stopping.is_set() or await request.is_disconnected() or door.session(request, touch=False) is None:
                return
            now = await run_in_threadpool(stamp)
            if now != last:
                last = now
                for name, html in (await run_in_threadpool(render)).items():
                    yield event(name, html)
            elif turn % max(1, round(BEAT_SECONDS / seconds)) == 0:
                yield ": still here\n\n"
            await asyncio.sleep(seconds)
    finally:
        _streams.release()


def event(name: str, data: str) -> str:
    """One event in the stream's format. No line of ``data`` can begin a field of its own."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines() or [""])
    return f"event: {name}\n{lines}\n"
