"""The budget on the page: who spent what, what is left, what approved studies will still take; and the ledger."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from client.approval import approved
from client.budget import CohortSpending, spending
from client.console.desk import AtDesk, AtSite, Desk
from client.console.paging import LONGEST, Sheet, matches
from client.console.spending import Piece, Point, history, pieces
from client.ledger import Entry
from client.ledger_export import export_text
from client.proposals import proposals
from client.site import Site
from common.privacy.events import Event, SubsampledGaussian
from common.study import Study
from common.web.page import View, Viewer
from common.web.texts import Texts

router = APIRouter()
Words = Annotated[str, Query(max_length=LONGEST)]
Number = Annotated[int, Query(ge=1, le=1_000_000)]


@router.get("/budget")
def budget(view: View, desk: AtDesk, site: AtSite) -> Response:
    """The site's limits; the figures, which take computing, come as a part."""
    entries = desk.books.entries()
    refused = [entry for entry in reversed(entries) if entry.kind == "refuse"]
    return view.show("budget.html.j2", policy=site.config.policy, cohort=site.config.cohort, refused=refused[:5])


@router.get("/budget/picture")
def picture(view: View, desk: AtDesk, site: AtSite) -> Response:
    """What is spent by whom and what remains."""
    found = figures(desk, site)
    most, delta = site.config.policy.max_epsilon, site.config.policy.max_delta
    curve = drawn(view.t, found, most)
    return view.show("_picture.html.j2", most=most, delta=delta, curve=curve, **vars(found))


@dataclass(frozen=True)
class Figures:
    """The budget in figures. ``promised``: epsilon after all approved studies; ``scale``: the end of the bar."""

    present: CohortSpending
    others: Sequence[CohortSpending]
    names: dict[str, str]
    pieces: list[Piece]
    points: list[Point]
    scale: float
    promised: float
    asked: list[Piece]


def figures(desk: Desk, site: Site) -> Figures:
    """What the picture is drawn from; computed once for each state of ledger, decisions and limits."""
    with desk.counting:
        entries, notes = desk.books.entries(), desk.books.log()[1]
        running, waiting = approved(site), [one.study for one in proposals(site)]
        digests = tuple(study.digest for study in (*running, *waiting))
        state = (entries[-1].hash if entries else "", len(notes.decisions), len(running), digests, site.config)
        if desk.kept is None or desk.kept[0] != state:
            names = {**notes.names, **{study.digest: study.name for study in running}}
            desk.kept = (state, _count(site, entries, names, running, waiting))
        kept: Figures = desk.kept[1]
        return kept


def _count(
    site: Site, entries: Sequence[Entry], names: dict[str, str], running: Sequence[Study], waiting: Sequence[Study]
) -> Figures:
    found = pieces(site, entries, names, running, waiting)
    present, *others = spending(site, entries)
    return Figures(
        present=present,
        others=others,
        names=names,
        pieces=found,
        points=history(site, entries),
        scale=max([site.config.policy.max_epsilon, *(piece.end for piece in found)]),
        promised=max([present.epsilon, *(piece.end for piece in found if piece.kind == "promised")]),
        asked=[piece for piece in found if piece.kind == "asked"],
    )


def drawn(t: Texts, found: Figures, most: float) -> str:
    """The spending over time as SVG; "" for fewer than two points."""
    if len(found.points) < 2:
        return ""
    from client.console.curve import spending_curve  # here: it brings the drawing library

    return spending_curve(tuple(found.points), most, t("budget.curve"), t("budget.limit", most=f"{most:g}"))


@router.get("/records/ledger")
def ledger(view: View, desk: AtDesk, q: Words = "", page: Number = 1) -> Response:
    """The rows of the ledger, the newest first."""
    entries, names = desk.books.entries(), desk.books.log()[1].names
    found = [entry for entry in reversed(entries) if matches(q, _text(entry, names))]
    sheet = Sheet.of(found, page)
    head = entries[-1].hash if entries else ""
    rows = [
        (entry, names.get(entry.study, ""), [in_words(view, event) for event in entry.events]) for entry in sheet.rows
    ]
    return view.show("ledger.html.j2", sheet=sheet, rows=rows, q=q, total=len(entries), head=head)


@router.get("/records/ledger.jsonl")
def export(view: View, desk: AtDesk) -> Response:
    """Every row with its hashes, as ``fedct-site ledger export``."""
    view.act("exported the ledger")
    named = {"content-disposition": 'attachment; filename="ledger.jsonl"'}
    return Response(export_text(desk.books.entries()), media_type="application/jsonl", headers=named)


def in_words(view: Viewer, event: Event) -> str:
    """A charge in words: noise, how many steps or counts, and who was drawn."""
    if isinstance(event, SubsampledGaussian):
        return view.t(
            "event.step" if event.steps == 1 else "event.steps",
            steps=event.steps,
            sigma=f"{event.sigma:.3g}",
            rate=f"{event.q:g}",
        )
    return view.t("event.count" if event.count == 1 else "event.counts", count=event.count, sigma=f"{event.sigma:.3g}")


def _text(entry: Entry, names: dict[str, str]) -> str:
    shown = (entry.id, entry.time, entry.kind, entry.cohort, entry.study, names.get(entry.study, ""), entry.note)
    return json.dumps(shown, ensure_ascii=False)
