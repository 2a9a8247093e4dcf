"""Launching a study: written or read from a file, checked as it is typed, its cost forecast before it is signed."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

from fastapi import APIRouter, Form, UploadFile
from starlette.responses import Response

from common.errors import FedctError, StudyError
from common.privacy.plan import plan_for
from common.study import study_from_toml
from common.web.gate import needs
from common.web.page import View, Viewer
from server.dashboard.desk import AtDesk, Desk
from server.dashboard.plain import forecast, plan_lines
from server.dashboard.signed import sign, signed

router = APIRouter()
MOST_CHARACTERS = 200_000
Text = Annotated[str, Form(max_length=MOST_CHARACTERS)]
SOURCE = "study.toml"


def starter() -> str:
    """A study to start from."""
    return resources.files("server.dashboard").joinpath("starter.toml").read_text(encoding="utf-8")


@router.get("/launch")
@needs("operator")
def launch_page(view: View, desk: AtDesk) -> Response:
    """A study to be written, or read from a file."""
    return _editor(view, desk, starter())


@router.post("/launch/read")
@needs("operator")
async def read(view: View, desk: AtDesk, file: UploadFile) -> Response:
    """Take a study file into the editor."""
    text = (await file.read(MOST_CHARACTERS)).decode("utf-8", "replace")
    return _editor(view, desk, text)


@router.post("/launch/check")
@needs("operator")
def check(view: View, desk: AtDesk, study: Text) -> Response:
    """What is wrong with a study, or what it means and would cost."""
    return view.show("_forecast.html.j2", **_checked(desk, study))


@router.post("/launch/sign")
@needs("operator")
def sign_it(view: View, desk: AtDesk, study: Text, digest: Annotated[str, Form(max_length=64)] = "") -> Response:
    """Sign a study as 'fedct-coordinator sign' does, if it is the one whose forecast was shown."""
    here, text = desk.here, _lines(study)
    plan = study_from_toml(text, SOURCE)
    if digest != plan.digest:
        return _editor(view, desk, text, 409, changed=True)
    sign(here, plan, text)
    view.act(f"signed {plan.name}, {plan.digest}")
    return view.go(f"/launch/signed/{plan.name}", view.t("launch.signed"))


def _editor(view: Viewer, desk: Desk, text: str, status: int = 200, *, changed: bool = False) -> Response:
    checked = _checked(desk, text)
    return view.show("launch.html.j2", status, text=text, changed=changed, signed=signed(desk.here), **checked)


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
