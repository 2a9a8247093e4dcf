"""The audit log on the page: verified, searchable, paged, the newest line first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from client.audit_log import entry_of
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
    sheet = Sheet.of(found(lines, q, kind, notes.names), page)
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


def found(lines: list[bytes], words: str, kind: str, names: Mapping[str, str]) -> list[bytes]:
    """The lines that hold every word, and are of ``kind`` unless that is "", the newest first.

    A word that is in the name of a study (``names``, by digest) is also found where the study's digest is. Lines are
    ASCII, so a letter outside of it is looked for as the log spells it. Nothing is parsed.
    """
    rows = lines
    if kind:
        mark = f'"kind":{json.dumps(kind)},'.encode()
        rows = [line for line in rows if mark in line]
    for word in words.lower().split():
        digests = [digest for digest, name in names.items() if word in name.lower()]
        wanted = [json.dumps(word)[1:-1].lower().encode(), *(digest.encode() for digest in digests)]
        low = b"\n".join(rows).lower().split(b"\n") if rows else []
        rows = [line for line, text in zip(rows, low, strict=True) if any(one in text for one in wanted)]
    return rows[::-1]
