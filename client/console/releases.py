"""What left the hospital: each release, when, to whom, how many bytes, under which mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from client.audit_log import AuditEntry, entry_of
from client.console.books import whole_number
from client.console.budget import in_words
from client.console.desk import AtDesk, AtSite
from client.console.paging import Sheet
from client.ledger import Entry
from common.privacy.events import Event, Gaussian, SubsampledGaussian
from common.web.page import View, Viewer

router = APIRouter()


@dataclass(frozen=True)
class Left:
    """One release. ``size`` of the update in bytes, 0 for none; ``update``, ``evaluation``: by which mechanism, in words."""

    entry: AuditEntry
    study: str
    name: str
    round: int
    size: int
    private: bool
    update: str
    evaluation: str


@router.get("/releases")
def releases(view: View, desk: AtDesk, site: AtSite, page: Annotated[int, Query(ge=1, le=1_000_000)] = 1) -> Response:
    """The newest first."""
    lines, notes = desk.books.log()
    sheet = Sheet.of(notes.releases[::-1], page)
    charges = charges_of(desk.books.entries())
    rows = [left(view, entry_of(lines[at]), notes.names, charges) for at in sheet.rows]
    last = entry_of(lines[notes.releases[-1]]) if notes.releases else None
    to = "" if site.config.simulated or not site.joined else site.config.coordinator.address
    return view.show(
        "releases.html.j2", sheet=sheet, rows=rows, sent=notes.sent, last=last, to=to, policy=site.config.policy
    )


def charges_of(entries: Sequence[Entry]) -> dict[tuple[str, int], tuple[Event, ...]]:
    """What was charged for a round of a study, by digest and round; of a repeated one, the last time."""
    return {(entry.study, entry.round): entry.events for entry in entries if entry.kind == "reserve"}


def left(
    view: Viewer,
    entry: AuditEntry,
    names: Mapping[str, str],
    charges: Mapping[tuple[str, int], tuple[Event, ...]],
) -> Left:
    """A line of the audit log as a release, with the mechanism that the ledger was charged for it."""
    details = entry.details
    study, round_ = str(details.get("study", "")), whole_number(details, "round")
    events = charges.get((study, round_), ())
    steps = [in_words(view, event) for event in events if isinstance(event, SubsampledGaussian)]
    counts = [in_words(view, event) for event in events if isinstance(event, Gaussian)]
    size, private, mode = whole_number(details, "update_bytes"), bool(details.get("private")), details.get("evaluation")
    update = ""
    if size:
        update = steps[0] if private and steps else view.t("releases.noise" if private else "releases.no_noise")
    known = f"evaluation.{mode}"
    evaluation = counts[0] if mode == "noised" and counts else view.t(known) if known in view.t else str(mode)
    return Left(entry, study, names.get(study, ""), round_, size, private, update, evaluation)
