"""Cohorts on the page: what an ingest made of the hospital's files, with pictures, and a scan that is started here.

The pictures are of patients. They are shown to whoever is logged in at this site, kept by no browser (``no-store``),
and on no other page.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Form, HTTPException
from fastapi import Path as InPath
from starlette.responses import Response

from client.approval import approved
from client.console.desk import AtDesk, AtSite
from client.keys import SealBroken
from client.proposals import proposals
from client.site import Site
from common.errors import DataError, FedctError
from common.study import Input, Study
from common.web.gate import needs
from common.web.live import stream
from common.web.page import View

if TYPE_CHECKING:
    from client.ingest import Cohort
    from client.ingest.report import IngestReport

router = APIRouter()
Folder = Annotated[str, InPath(pattern=r"^[0-9a-f]{16}$")]
"""Name of a cohort's folder: nothing that could lead out of ``cohorts``."""


@dataclass(frozen=True)
class Card:
    """A cohort in the list: its report, or ``trouble`` why it can't be read."""

    name: str
    report: IngestReport | None
    trouble: str = ""
    remedy: str = ""


@router.get("/cohorts")
def cohorts(view: View, desk: AtDesk, site: AtSite) -> Response:
    """All cohorts, and what could be ingested."""
    return view.show(
        "cohorts.html.j2", site=site, cards=_cards(site), studies=_plans(site), progress=desk.scan.progress
    )


@router.get("/cohorts/live")
def live(view: View, desk: AtDesk) -> Response:
    """How the scan stands, as it goes, and the cohorts once it is done."""

    def render() -> dict[str, str]:
        progress = desk.scan.progress
        parts = {"scan": view.render("_scan.html.j2", progress=progress)}
        if progress.state == "done":
            parts["cohorts"] = view.render("_cohorts.html.j2", cards=_cards(desk.site))
        return parts

    return stream(view.request, lambda: desk.scan.progress, render)


@router.post("/cohorts/scan")
@needs("operator")
def start(view: View, desk: AtDesk, site: AtSite, study: Annotated[str, Form(pattern=r"^[0-9a-f]{64}$")]) -> Response:
    """Ingest the site's data for a study that waits or is approved."""
    plan, _, _ = desk.known(site, study)
    view.act(f"start a scan for study '{plan.name}' {study}")
    desk.books.audit.append("scan-started", {"study": study, "by": view.user})
    desk.scan.start(site, plan, view.user)
    return view.go("/cohorts", view.t("scan.started", name=plan.name))


@router.post("/cohorts/stop")
@needs("operator")
def stop(view: View, desk: AtDesk) -> Response:
    """Have the scan end at its next file."""
    desk.scan.stop()
    return view.go("/cohorts", view.t("scan.stopping"), "warn")


@router.get("/cohorts/{name}")
def cohort(view: View, site: AtSite, name: Folder) -> Response:
    """One cohort's report."""
    from client.ingest.report import label_problems
    from client.ingest.report_page import attention, hu_figure, refused_rows, settings_in_words, values_shown

    opened, report = _open(site, name)
    rows = refused_rows(report)
    wanted = Input.model_validate(opened.manifest["settings"]["input"])
    return view.show(
        "cohort.html.j2",
        name=name,
        report=report,
        attention=attention(report),
        labels=label_problems(report.labels),
        to_look_at=[row for row in rows if row.advice],
        usual=[row for row in rows if not row.advice],
        settings=settings_in_words(wanted),
        values=values_shown(report.distributions),
        hu=hu_figure(report.distributions, wanted),
        most=max((one.patients for one in report.classes.values()), default=0) or 1,
    )


@router.get("/cohorts/{name}/pictures")
def pictures(view: View, site: AtSite, name: Folder) -> Response:
    """The contact sheet: what the network will see."""
    from client.ingest.report_page import READING

    opened, _ = _open(site, name)
    view.act(f"looked at pictures of cohort {name}")
    settings = opened.manifest["settings"]
    return view.show(
        "_pictures.html.j2",
        reading=READING[settings["input"]["view"]],
        windows=len(settings["input"]["windows"]),
        sheet=_sheet(opened),
    )


def _sheet(opened: Cohort) -> list[tuple[str, list[tuple[str, str]]]]:
    """By class, pseudonym and PNG (in base64) of some examples. Raises DataError if one was altered."""
    from client.ingest.contact_sheet import contact_sheet

    classes, digest = opened.manifest["settings"]["task"]["classes"], opened.manifest["cohort_digest"]
    try:
        tiles = contact_sheet(opened.examples, opened.patients, opened.planes, classes, digest)
    except SealBroken:
        raise DataError(f"cohort '{opened.folder.name}' has an altered plane", "Ingest again") from None
    return [
        (name, [(tile.pseudonym, base64.b64encode(tile.png).decode()) for tile in tiles if tile.label == name])
        for name in classes
    ]


def _cards(site: Site) -> list[Card]:
    return [_card(site, path) for path in sorted(site.cohorts_dir.glob("[0-9a-f]*")) if path.is_dir()]


def _card(site: Site, path: Path) -> Card:
    try:
        return Card(path.name, _open(site, path.name)[1])
    except FedctError as error:
        return Card(path.name, None, error.message, error.remedy)


def _open(site: Site, name: str) -> tuple[Cohort, IngestReport]:
    """A cohort and its report. Raises DataError, and HTTPException 404 if there is none of this name."""
    from client.ingest.cohort import open_folder
    from client.ingest.report import IngestReport
    from client.ingest.report_page import REPORT_JSON

    folder = site.cohorts_dir / name
    if not folder.is_dir():
        raise HTTPException(404)
    opened = open_folder(site, folder)
    return opened, IngestReport.from_json(opened.read_file(REPORT_JSON))


def _plans(site: Site) -> list[Study]:
    """The studies that a scan could be for."""
    found = {study.digest: study for study in (*approved(site), *(one.study for one in proposals(site)))}
    return list(found.values())
