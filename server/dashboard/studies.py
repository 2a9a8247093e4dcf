"""Studies: how each stands, its round as it happens, stop and resume."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from common.privacy.plan import plan_for
from common.web.gate import needs
from common.web.live import stream
from common.web.page import View, Viewer
from server.daemon import daemon_of
from server.dashboard.desk import AtDesk, Name
from server.dashboard.plain import plan_lines
from server.dashboard.shelf import Shown
from server.dashboard.signed import find
from server.history import moment
from server.launch import resume as go_on
from server.runs import stop_run

router = APIRouter()
SHOWN_ROUNDS = 12
PAGE_ROUNDS = 50
BEAT_SECONDS = 10.0


@router.get("/")
@router.get("/studies")
def studies(view: View, desk: AtDesk) -> Response:
    """All studies."""
    return view.show("studies.html.j2", runs=desk.runs.all(), can_launch=desk.coordinator is not None)


@router.get("/live")
def studies_live(view: View, desk: AtDesk) -> Response:
    """The table of studies, as it changes."""
    return stream(
        view.request,
        lambda: (_beat(), *(one.stamp for one in desk.runs.all())),
        lambda: {"studies": view.render("_studies.html.j2", runs=desk.runs.all())},
        seconds=2.0,
    )


@router.get("/studies/{name}")
def study(view: View, desk: AtDesk, name: Name) -> Response:
    """One study: how it stands, its rounds, and its plan in plain words."""
    shown = desk.runs.one(name)
    plan = plan_lines(shown.study, plan_for(shown.study))
    kept = find(desk.coordinator, shown.study.name) if desk.coordinator is not None else None
    return view.show(
        "study.html.j2",
        run=shown,
        plan=plan,
        can_act=desk.coordinator is not None,
        signed=kept is not None and kept.study.digest == shown.study.digest,
        **_rounds(shown),
    )


@router.get("/studies/{name}/live")
def study_live(view: View, desk: AtDesk, name: Name) -> Response:
    """How a study stands, as it changes."""
    state: str = desk.runs.one(name).standing.state

    def render() -> dict[str, str]:
        nonlocal state
        shown = desk.runs.one(name)
        parts = {"state": view.render("_study.html.j2", run=shown, **_rounds(shown))}
        if shown.standing.state != state:  # else whoever is about to press a button would lose it
            state = shown.standing.state
            parts["actions"] = view.render("_actions.html.j2", run=shown, can_act=desk.coordinator is not None)
        return parts

    return stream(view.request, lambda: (_beat(), desk.runs.one(name).stamp), render)


@router.get("/studies/{name}/rounds")
def rounds(
    view: View, desk: AtDesk, name: Name, before: Annotated[int | None, Query(ge=2, le=100_000)] = None
) -> Response:
    """All rounds of a study, newest first, some at a time."""
    shown = desk.runs.one(name)
    found = [one for one in reversed(shown.history.rounds) if before is None or one.number < before]
    earlier = found[PAGE_ROUNDS - 1].number if len(found) > PAGE_ROUNDS else None
    return view.show("rounds.html.j2", run=shown, rounds=found[:PAGE_ROUNDS], earlier=earlier)


@router.get("/studies/{name}/stop")
@needs("operator")
def ask_stop(view: View, desk: AtDesk, name: Name) -> Response:
    """Ask whether to stop a run."""
    return _ask(view, desk.runs.one(name), "stop", danger=True)


@router.get("/studies/{name}/resume")
@needs("operator")
def ask_resume(view: View, desk: AtDesk, name: Name) -> Response:
    """Ask whether to go on with a run."""
    return _ask(view, desk.runs.one(name), "resume", danger=False)


@router.post("/studies/{name}/stop")
@needs("operator")
def stop(view: View, desk: AtDesk, name: Name) -> Response:
    """Stop a run, as 'fedct-coordinator stop' does."""
    view.act(f"stop {name}")
    stopped = stop_run(daemon_of(desk.here), name)
    desk.runs.forget()
    return view.go(f"/studies/{name}", view.t("study.stopped" if stopped else "study.was_over"))


@router.post("/studies/{name}/resume")
@needs("operator")
def resume(view: View, desk: AtDesk, name: Name) -> Response:
    """Go on with a run, as 'fedct-coordinator resume' does."""
    view.act(f"resume {name}")
    go_on(daemon_of(desk.here), name)
    desk.runs.forget()
    return view.go(f"/studies/{name}", view.t("study.resumed"))


def _beat() -> int:
    """Another number every few seconds: "just now" and the time left would stand still otherwise."""
    return int(time.monotonic() // BEAT_SECONDS)


def _ask(view: Viewer, shown: Shown, what: str, *, danger: bool) -> Response:
    path = f"/studies/{shown.name}"
    return view.show(
        "confirm.html.j2",
        title=view.t(f"study.ask_{what}", title=shown.title),
        lines=[view.t(f"study.why_{what}", round=shown.standing.round, rounds=shown.standing.rounds)],
        action=f"{path}/{what}",
        go=view.t(f"study.{what}"),
        back=path,
        danger=danger,
    )


def _rounds(shown: Shown) -> dict[str, object]:
    """The newest rounds, and who is at work, those first who need a look, and until when they are waited for."""
    order = {"failed": 0, "refused": 0, "late": 1, "gone": 2, "working": 3, "ok": 4}
    at_work = shown.history.places.values() if shown.standing.state in ("running", "unknown") else ()
    places = sorted(at_work, key=lambda place: (order[place.doing], place.site))
    unready = sorted(
        (one for one in shown.history.hellos.values() if not one.ready and one.site not in shown.history.places),
        key=lambda one: one.site,
    )
    until = None
    if any(place.doing in ("working", "gone") for place in places) and shown.history.started:
        until = moment(shown.history.started) + timedelta(minutes=shown.study.federation.deadline_minutes)
    last = list(reversed(shown.history.rounds[-SHOWN_ROUNDS:]))
    return {"places": places, "until": until, "unready": unready, "last": last}
