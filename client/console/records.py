"""The audit log on the page: verified, searchable, paged, the newest line first."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from client.audit_log import entry_of
from client.console.books import Notes
from client.console.desk import AtDesk
from client.console.paging import LONGEST, Sheet
from client.console.studies import in_words
from common.web.page import View

router = APIRouter()


@router.get("/records")
def log(
    view: View,
    desk: AtDesk,
    q: Annotated[str, Query(max_length=LONGEST)] = "",
    kind: Annotated[str, Query(max_length=LONGEST)] = "",
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Response:
    """The lines that hold all words of ``q``, of one ``kind`` or of all."""
    lines, notes = desk.books.log()
    sheet = Sheet.of([lines[at] for at in found(lines, notes, q, kind)], page)
    entries = [entry_of(line) for line in sheet.rows]
    kinds = sorted((name, in_words(view, name), count) for name, count in notes.kinds.items())
    return view.show(
        "records.html.j2",
        sheet=sheet,
        rows=[(entry, in_words(view, entry.kind), notes.names.get(str(entry.details.get("study", "")), "")) for entry in entries],
        kinds=kinds,
        q=q,
        kind=kind,
        total=len(lines),
        head=entry_of(lines[-1]).hash if lines else "",
    )  # fmt: skip


def found(lines: list[bytes], notes: Notes, words: str, kind: str) -> list[int]:
    """Positions of the lines that hold every word, and are of ``kind`` unless that is "", the newest first.

    A word that is in the name of a study is also found where the study's digest is. Lines are ASCII, so a letter outside
    of it is looked for as the log spells it. Nothing is parsed.
    """
    mark = f'"kind":{json.dumps(kind)},'.encode() if kind else b""
    rows = [at for at in range(len(lines)) if mark in lines[at]]
    for word in words.lower().split():
        digests = [digest for digest, name in notes.names.items() if word in name.lower()]
        wanted = [json.dumps(word)[1:-1].lower().encode(), *(digest.encode() for digest in digests)]
        hits = {at for one in wanted for at in rows if one in notes.low[at]}
        rows = [at for at in rows if at in hits]
    return rows[::-1]
