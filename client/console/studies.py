"""Studies on the page: what waits, what it would do and cost, yes or no, and what was decided before.

Yes and no are those of ``fedct-site study`` (``client.approval``), with a second confirmation, from an approver.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, File, UploadFile
from starlette.responses import Response

from client.approval import approve, approved, refuse
from client.approval_words import plain, sections
from client.audit_log import entry_of
from client.console.books import Notes
from client.console.desk import AtDesk, AtSite, Desk, Digest
from client.proposals import proposals, propose, settle
from client.site import Site
from common.errors import StudyError
from common.study import Study, parse_study
from common.web.gate import needs
from common.web.page import View, Viewer

router = APIRouter()
MOST_DECISIONS = 50


@dataclass(frozen=True)
class Row:
    """A study in the list. ``begun``: how many of its rounds were begun here. ``no``: why this site took no part when
    it was asked last, and the time of that; None if it did.
    """

    study: Study
    title: str
    begun: int
    no: tuple[str, str] | None


@router.get("/studies")
def studies(view: View, desk: AtDesk, site: AtSite) -> Response:
    """What waits, what is approved, what was decided."""
    lines, notes = desk.books.log()
    return view.show(
        "studies.html.j2",
        site=site,
        waiting=[(_row(one.study, lines, notes), one.since) for one in proposals(site)],
        running=[_row(study, lines, notes) for study in approved(site)],
        decisions=[entry_of(lines[at]) for at in reversed(notes.decisions[-MOST_DECISIONS:])],
        plain=plain,
    )


@router.post("/studies")
@needs("operator")
def add(
    view: View,
    site: AtSite,
    study: Annotated[UploadFile, File()],
    signature: Annotated[UploadFile | None, File()] = None,
) -> Response:
    """Take in a study that the coordinator sent, with its signature."""
    plan = _study(study.file.read())
    line = signature.file.read().decode("ascii", "replace") if signature is not None else ""
    propose(site, plan, line)
    view.act(f"added study '{plan.name}' {plan.digest}")
    return view.go(f"/studies/{plan.digest}", view.t("studies.added"))


@router.get("/studies/{digest}")
def study(view: View, desk: AtDesk, site: AtSite, digest: Digest) -> Response:
    """One study in plain words."""
    plan, signature, waiting = desk.known(site, digest)
    row = _row(plan, *desk.books.log())
    return view.show("study.html.j2", row=row, waiting=waiting, **_in_words(desk, site, plan, signature))


@router.get("/studies/{digest}/cost")
def cost(view: View, desk: AtDesk, site: AtSite, digest: Digest) -> Response:
    """What it costs of the budget, and whether it may run here: a part of the page, since it takes computing."""
    plan, signature, waiting = desk.known(site, digest)
    review = desk.review(site, plan, signature)
    return view.show("_cost.html.j2", study=plan, review=review, cost=review.forecast, waiting=waiting)


@router.get("/studies/{digest}/approve")
@needs("approver")
def ask_approve(view: View, desk: AtDesk, site: AtSite, digest: Digest) -> Response:
    """The second confirmation of a yes."""
    plan, signature, _ = desk.known(site, digest)
    found = desk.review(site, plan, signature)
    leaves = sections(site, plan, found.cohort)[2][1]
    spent = view.t(
        "study.confirm_cost", before=f"{found.forecast.spent:.2f}", after=f"{found.forecast.after:.2f}",
        most=f"{found.forecast.max_epsilon:g}",
    )  # fmt: skip
    return view.show(
        "confirm.html.j2",
        title=view.t("study.confirm_approve", name=plan.name),
        lines=[view.t("study.confirm_leaves"), *leaves, spent, view.t("study.confirm_digest", digest=digest)],
        action=f"/studies/{digest}/approve",
        go=view.t("study.approve_yes"),
        back=f"/studies/{digest}",
    )


@router.post("/studies/{digest}/approve")
@needs("approver")
def do_approve(view: View, desk: AtDesk, site: AtSite, digest: Digest) -> Response:
    """Agree to a study."""
    plan, signature, _ = desk.known(site, digest)
    view.act(f"approve study '{plan.name}' {digest}")
    approve(site, plan, signature, by=view.user)
    settle(site, digest)
    return view.go(f"/studies/{digest}", view.t("study.approved_now", name=plan.name))


@router.get("/studies/{digest}/refuse")
@needs("approver")
def ask_refuse(view: View, desk: AtDesk, site: AtSite, digest: Digest) -> Response:
    """The second confirmation of a no."""
    plan, _, waiting = desk.known(site, digest)
    return view.show(
        "confirm.html.j2",
        title=view.t("study.confirm_refuse", name=plan.name),
        lines=[view.t("study.confirm_refuse_waiting" if waiting else "study.confirm_refuse_running")],
        action=f"/studies/{digest}/refuse",
        go=view.t("study.refuse_yes"),
        back=f"/studies/{digest}",
        danger=True,
    )


@router.post("/studies/{digest}/refuse")
@needs("approver")
def do_refuse(view: View, desk: AtDesk, site: AtSite, digest: Digest) -> Response:
    """Refuse a study, or take an approval back."""
    plan, _, _ = desk.known(site, digest)
    view.act(f"refuse study '{plan.name}' {digest}")
    had = refuse(site, plan, by=view.user)
    settle(site, digest)
    return view.go("/studies", view.t("study.withdrawn_now" if had else "study.refused_now", name=plan.name), "warn")


def _in_words(desk: Desk, site: Site, plan: Study, signature: str) -> dict[str, Any]:
    """What the page of a study says of it, but for its cost."""
    from client.approval import cohort_size

    cohort = cohort_size(site, plan)
    return {
        "sections": sections(site, plan, cohort),
        "cohort": cohort,
        "description": plain(plan.description),
        "signed": "" if site.config.simulated else site.config.coordinator.address,
        "scan": desk.scan.progress,
        "signature": signature,
    }


def _row(plan: Study, lines: list[bytes], notes: Notes) -> Row:
    at, no = notes.noes.get(plan.digest), None
    if at is not None:
        entry = entry_of(lines[at])
        why = re.sub(r"^[A-Za-z]\w*: ", "", str(entry.details.get("error", "")))  # the error's class
        no = (plain(why).rstrip("."), entry.time)
    return Row(plan, plain(plan.title) or plan.name, len(notes.rounds.get(plan.digest, ())), no)


def _study(content: bytes) -> Study:
    """A study file that was sent. Raises StudyError."""
    try:
        return parse_study(tomllib.loads(content.decode("utf-8")), "the study file")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise StudyError(
            f"the study file is not valid TOML: {error}", "Send the study.toml of the coordinator"
        ) from None


def in_words(view: Viewer, kind: str) -> str:
    """A kind of audit line in words; one of another release stands for itself."""
    return view.t(f"kind.{kind}") if f"kind.{kind}" in view.t else kind
