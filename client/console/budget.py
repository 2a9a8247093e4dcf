"""The budget on the page: who spent what, what is left, what approved studies will still take; and the ledger."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from client.approval import approved
from client.budget import spending
from client.console.desk import AtDesk, AtSite
from client.console.paging import LONGEST, Sheet, matches
from client.console.spending import history, pieces
from client.ledger import Entry
from client.ledger_export import export_text
from client.proposals import proposals
from common.privacy.events import Event, SubsampledGaussian
from common.web.page import View, Viewer

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
    entries = desk.books.entries()
    _, notes = desk.books.log()
    running, waiting = approved(site), [one.study for one in proposals(site)]
    names = {**notes.names, **{study.digest: study.name for study in running}}
    found = pieces(site, entries, names, running, waiting)
    present, *others = spending(site, entries)
    most = site.config.policy.max_epsilon
    return view.show(
        "_picture.html.j2",
        most=most,
        delta=site.config.policy.max_delta,
        present=present,
        others=others,
        names=names,
        pieces=found,
        scale=max([most, *(piece.end for piece in found)]),
        promised=max([present.epsilon, *(piece.end for piece in found if piece.kind == "promised")]),
        asked=[piece for piece in found if piece.kind == "asked"],
        curve=curve(view, history(site, entries), most),
    )


def curve(view: Viewer, points: list[Any], most: float) -> str:
    """The spending over time as SVG; "" for fewer than two points."""
    if len(points) < 2:
        return ""
    from client.console.curve import spending_curve  # here: it brings the drawing library

    return spending_curve(points, most, view.t("budget.curve"), view.t("budget.limit", most=f"{most:g}"))


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
