"""What the site's pages share: the site as it is now, its records, and the scan that may be under way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi import Path as InPath

from client.approval import Review, approved, review
from client.console.books import Books
from client.console.scan import Scan
from client.proposals import Proposal, proposals
from client.site import Site, load_site
from common.pki.signature import read_signature
from common.study import Study

Digest = Annotated[str, InPath(pattern=r"^[0-9a-f]{64}$")]
"""A study's digest in a path: nothing that could name another file."""


class Desk:
    """One site. ``site.toml`` is read anew at each request, so that a limit that was changed holds at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        site = load_site(folder)
        self.books, self.scan = Books(site), Scan()
        self.counting = threading.Lock()
        self.kept: tuple[Any, Any] | None = None  # the budget's figures, and the state that they are of

    @property
    def site(self) -> Site:
        return load_site(self._folder)

    def known(self, site: Site, digest: str) -> tuple[Study, str, Proposal | None]:
        """A study that waits or is approved, its signature, and the proposal if it waits. Raises HTTPException 404."""
        for waiting in proposals(site):
            if waiting.study.digest == digest:
                return waiting.study, waiting.signature, waiting
        for study in approved(site):
            if study.digest == digest:
                return study, read_signature(site.folder / "approved" / f"{digest}.json.sig"), None
        raise HTTPException(404)

    def review(self, site: Site, study: Study, signature: str) -> Review:
        """As ``client.approval.review``, by the ledger that is open."""
        return review(site, study, signature, self.books.ledger)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _site(request: Request) -> Site:
    return _desk(request).site


AtDesk = Annotated[Desk, Depends(_desk)]
AtSite = Annotated[Site, Depends(_site)]
