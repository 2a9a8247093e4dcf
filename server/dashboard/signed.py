"""Signed studies: the two files that hospitals look at and approve, and the start once they have.

They lie in ``studies/`` of the coordinator's folder, ``NAME.toml`` and ``NAME.toml.sig``; a study that is signed under
the name of an earlier one takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Path
from starlette.responses import Response

from common.clock import now
from common.errors import StudyError
from common.files import write_atomic
from common.pki.signature import read_signature, sign_study, signature_file
from common.privacy.plan import plan_for
from common.study import Study, study_from_toml
from common.web.gate import needs
from common.web.page import View
from server.cli.sign import write_signature
from server.coordinator import Coordinator
from server.daemon import daemon_of
from server.dashboard.desk import AtDesk
from server.dashboard.plain import plan_lines
from server.launch import launch as begin

router = APIRouter()
FOLDER = "studies"
Name = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", description="Name of a study.")]
File = Literal["study", "signature"]


@dataclass(frozen=True)
class Signed:
    """A study that this coordinator signed. ``file``: as it was written; its signature lies beside it."""

    file: FilePath
    study: Study

    @property
    def title(self) -> str:
        """The study's title, or its name."""
        return self.study.title or self.study.name


def sign(here: Coordinator, plan: Study, text: str) -> None:
    """Keep a study with its signature. ``text``: what ``plan`` was read from."""
    folder = here.folder / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    file = folder / f"{plan.name}.toml"
    write_atomic(file, text.encode())
    write_signature(file, plan, here)


def signed(here: Coordinator) -> list[Signed]:
    """All that are kept, the newest first; files that are not as they were signed are left out."""
    files = sorted((here.folder / FOLDER).glob("*.toml"), key=lambda file: file.stat().st_mtime, reverse=True)
    return [one for file in files if (one := _read(here, file)) is not None]


def find(here: Coordinator, name: str) -> Signed | None:
    """The signed study of this name, which is one that a study can have; None when there is none."""
    return _read(here, here.folder / FOLDER / f"{name}.toml")


def _found(here: Coordinator, name: str) -> Signed:
    found = find(here, name)
    if found is None:
        raise HTTPException(404)
    return found


@router.get("/launch/signed/{name}")
@needs("operator")
def signed_page(view: View, desk: AtDesk, name: Name) -> Response:
    """What to send to the hospitals, and the start."""
    one = _found(desk.here, name)
    return view.show("signed.html.j2", one=one, plan=plan_lines(one.study, plan_for(one.study)), changed=False)


@router.get("/launch/signed/{name}/{file}")
@needs("operator")
def document(view: View, desk: AtDesk, name: Name, file: File) -> Response:
    """One of the two files."""
    found = _found(desk.here, name).file
    path = found if file == "study" else signature_file(found)
    view.act(f"downloaded {path.name}")
    named = {"content-disposition": f'attachment; filename="{path.name}"'}
    return Response(path.read_bytes(), media_type="application/octet-stream", headers=named)


@router.post("/launch/signed/{name}/start")
@needs("operator")
def start(
    view: View,
    desk: AtDesk,
    name: Name,
    digest: Annotated[str, Form(max_length=64)] = "",
    seed: Annotated[int, Form(ge=0, le=2**31)] = 0,
) -> Response:
    """Start a study as 'fedct-coordinator launch' does, if it is the one that was looked at."""
    here = desk.here
    one = _found(here, name)
    if digest != one.study.digest:
        plan = plan_lines(one.study, plan_for(one.study))
        return view.show("signed.html.j2", 409, one=one, plan=plan, changed=True)
    started = begin(daemon_of(here), one.study, one.file.parent, seed=seed, now=now())
    desk.runs.forget()
    view.act(f"launched {started.folder.root.name}, {digest}")
    return view.go(f"/studies/{started.folder.root.name}", view.t("signed.started"))


def _read(here: Coordinator, file: FilePath) -> Signed | None:
    try:
        study = study_from_toml(file.read_text(encoding="utf-8"), file.name)
    except (OSError, UnicodeDecodeError, StudyError):
        return None
    same = file.stem == study.name and read_signature(signature_file(file)) == sign_study(study, here.study_key())
    return Signed(file, study) if same else None
