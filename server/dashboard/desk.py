"""What the coordinator's page works with, for its routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, HTTPException, Path, Request

from server.coordinator import Coordinator
from server.dashboard.shelf import Runs

Name = Annotated[str, Path(max_length=200, description="Name of a run.")]


@dataclass
class Desk:
    """``coordinator``: None where the page shows a simulation, which has no sites to invite and nothing to launch."""

    runs: Runs
    coordinator: Coordinator | None

    @property
    def here(self) -> Coordinator:
        """The coordinator. Raises HTTPException where there is none."""
        if self.coordinator is None:
            raise HTTPException(404)
        return self.coordinator


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


AtDesk = Annotated[Desk, Depends(_desk)]
