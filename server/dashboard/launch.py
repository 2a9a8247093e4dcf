"""Launching a study: written or read from a file, checked as it is typed, its cost forecast before anything starts."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Form, UploadFile
from starlette.responses import Response

from common.clock import now
from common.errors import FedctError, StudyError
from common.files import write_atomic
from common.privacy.plan import plan_for
from common.study import study_from_toml
from common.web.gate import needs
from common.web.page import View
from server.cli.sign import write_signature
from server.daemon import daemon_of
from server.dashboard.desk import AtDesk, Desk
from server.dashboard.plain import forecast, plan_lines
from server.launch import launch as start

router = APIRouter()
MOST_CHARACTERS = 200_000
Text = Annotated[str, Form(max_length=MOST_CHARACTERS)]
STUDIES = "studies"
SOURCE = "study.toml"


@router.get("/launch")
@needs("operator")
def launch_page(view: View, desk: AtDesk) -> Response:
    """A study to be written, or read from a file."""
    _ = desk.here
    starter = resources.files("server.dashboard").joinpath("starter.toml").read_text(encoding="utf-8")
    return view.show("launch.html.j2", text=starter, changed=False, **_checked(desk, starter))


@router.post("/launch/read")
@needs("operator")
async def read(view: View, desk: AtDesk, file: UploadFile) -> Response:
    """Take a study file into the editor."""
    text = (await file.read(MOST_CHARACTERS)).decode("utf-8", "replace")
    return view.show("launch.html.j2", text=text, changed=False, **_checked(desk, text))


@router.post("/launch/check")
@needs("operator")
def check(view: View, desk: AtDesk, study: Text) -> Response:
    """What is wrong with a study, or what it means and would cost."""
    return view.show("_forecast.html.j2", **_checked(desk, study))


@router.post("/launch")
@needs("operator")
def launch(
    view: View,
    desk: AtDesk,
    study: Text,
    digest: Annotated[str, Form(max_length=64)] = "",
    seed: Annotated[int, Form(ge=0, le=2**31)] = 0,
) -> Response:
    """Sign a study and start it, as 'fedct-coordinator launch' does, if it is the one whose forecast was shown."""
    here, text = desk.here, _lines(study)
    plan = study_from_toml(text, SOURCE)
    if digest != plan.digest:
        return view.show("launch.html.j2", 409, text=text, changed=True, **_checked(desk, text))
    folder = here.folder / STUDIES
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{plan.name}.toml"
    write_atomic(file, text.encode())
    write_signature(file, plan, here)
    started = start(daemon_of(here), plan, folder, seed=seed, now=now())
    view.act(f"launched {started.folder.root.name}, {plan.digest}")
    return view.go(f"/studies/{started.folder.root.name}", view.t("launch.started"))


def _checked(desk: Desk, text: str) -> dict[str, object]:
    """What the check of a study found, for the template."""
    try:
        plan = study_from_toml(_lines(text), SOURCE)
        cost = forecast(plan, desk.runs.all())
    except StudyError as error:
        problems = error.message.removeprefix(f"{SOURCE}: ").split("; ")
        return {"study": None, "problems": problems, "plan": [], "cost": None}
    except FedctError as error:
        return {"study": None, "problems": [str(error)], "plan": [], "cost": None}
    return {"study": plan, "problems": [], "plan": plan_lines(plan, plan_for(plan)), "cost": cost}


def _lines(text: str) -> str:
    """Text as a form sends it, with the line ends of a file."""
    return text.replace("\r\n", "\n")
