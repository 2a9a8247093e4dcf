"""What the coordinator's page works with, for its routes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request

from server.coordinator import Coordinator
from server.dashboard.shelf import Runs

Name = Annotated[str, Path(max_length=200, description="Name of a run.")]
DRAWN_KEPT = 16


@dataclass
class Desk:
    """``coordinator``: None where the page shows a simulation, which has no sites to invite and nothing to launch."""

    runs: Runs
    coordinator: Coordinator | None
    _drawn: dict[tuple[str, ...], str] = field(default_factory=dict)
    _drawing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def here(self) -> Coordinator:
        """The coordinator. Raises HTTPException where there is none."""
        if self.coordinator is None:
            raise HTTPException(404)
        return self.coordinator

    def drawn(self, key: tuple[str, ...], draw: Callable[[], str] | None = None) -> str | None:
        """What was drawn under ``key``, or is drawn now: one at a time, since matplotlib's settings are the process's."""
        if key not in self._drawn and draw is not None:
            with self._drawing:
                if key not in self._drawn:
                    made = draw()
                    while len(self._drawn) >= DRAWN_KEPT:
                        del self._drawn[next(iter(self._drawn))]
                    self._drawn[key] = made
        return self._drawn.get(key)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(_desk)]
