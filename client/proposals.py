"""Studies that wait for a decision at a site: ``proposed/`` of the site folder.

One canonical study a file, named by its digest, with the coordinator's signature beside it: what the coordinator sent,
kept until somebody approves or refuses it. A proposal permits nothing; an approval does (``client.approval``).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.site import Site
from common.errors import StudyError, UsageError
from common.files import write_atomic
from common.pki.signature import read_signature, signature_file
from common.study import Study, study_from_json

MOST = 100


@dataclass(frozen=True)
class Proposal:
    """A study that waits. ``signature``: its line, "" at a simulated site. ``since``: when it came, UTC."""

    study: Study
    signature: str
    since: datetime


def propose(site: Site, study: Study, signature: str) -> None:
    """Keep a study until it is decided on. Raises TrustError unless this site's coordinator signed it."""
    site.check_signature(study, signature)
    path = _file(site, study.digest)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if len(list(path.parent.glob("*.json"))) >= MOST:
        raise UsageError(f"{MOST} studies wait here already", "Decide on some of them first")
    write_atomic(signature_file(path), signature.encode())
    write_atomic(path, study.canonical_json().encode())


def proposals(site: Site) -> tuple[Proposal, ...]:
    """All that wait, the newest first; files that don't hold the study of their name are left out."""
    found = [_read(path) for path in (site.folder / "proposed").glob("*.json")]
    return tuple(sorted((one for one in found if one), key=lambda one: (one.since, one.study.name), reverse=True))


def settle(site: Site, digest: str) -> None:
    """Take a study off the list, once it is decided on."""
    path = _file(site, digest)
    path.unlink(missing_ok=True)
    signature_file(path).unlink(missing_ok=True)


def _file(site: Site, digest: str) -> Path:
    return site.folder / "proposed" / f"{digest}.json"


def _read(path: Path) -> Proposal | None:
    with contextlib.suppress(OSError, UnicodeDecodeError, StudyError):
        study = study_from_json(path.read_text(encoding="utf-8"))
        if study.digest == path.stem:
            since = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            return Proposal(study, read_signature(signature_file(path)), since)
    return None
