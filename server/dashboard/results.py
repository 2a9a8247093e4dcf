"""Results: the report's own figures and tables, downloads, and studies side by side."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, HTTPException, Query
from markupsafe import Markup
from starlette.responses import FileResponse, HTMLResponse, Response

from common.errors import FedctError
from common.model_card import ModelCard, read_card
from common.web.gate import needs
from common.web.page import View
from server.dashboard.desk import AtDesk, Name
from server.dashboard.shelf import Shown
from server.report import page

router = APIRouter()
File = Literal[
    "report.html",
    "results.json",
    "model.safetensors",
    "model-card.md",
    "model-card.json",
    "provenance.json",
    "model.onnx",
]
FILES: tuple[File, ...] = get_args(File)
MOST_COMPARED = 8


@router.get("/studies/{name}/results")
def results(view: View, desk: AtDesk, name: Name) -> Response:
    """The results of a study: what its report says, or how its metrics move while it runs."""
    shown, so_far = desk.runs.one(name), desk.runs.so_far(name)
    there = [file for file in FILES if (shown.folder.root / file).is_file()]
    body = page.body(shown.folder.report_file) if "report.html" in there else so_far.ready(shown.history.done)
    return view.show("results.html.j2", run=shown, body=None if body is None else _safe(body), files=there)


@router.get("/studies/{name}/results/figures")
def figures(desk: AtDesk, name: Name) -> Response:
    """The figures of a study that goes on, which take time to draw."""
    return HTMLResponse(desk.runs.so_far(name).figures())


@router.get("/studies/{name}/files/{file}")
def download(view: View, desk: AtDesk, name: Name, file: File) -> Response:
    """A file of a run: one of ``FILES`` and no other."""
    path = desk.runs.folder(name).root / file
    if not path.is_file():
        raise HTTPException(404)
    view.act(f"downloaded {file} of {name}")
    return FileResponse(path, filename=f"{name}-{file}", media_type="application/octet-stream")


@router.post("/studies/{name}/onnx")
@needs("operator")
def onnx(view: View, desk: AtDesk, name: Name) -> Response:
    """Write the model as ONNX, as 'fedct-coordinator export' does."""
    from server.export import export_model  # it takes torch, which nothing else here needs

    view.act(f"exported {name} as ONNX")
    (done,) = export_model(desk.runs.folder(name), to_onnx=True, to_torchscript=False)
    return view.go(f"/studies/{name}/results", view.t("results.exported", difference=f"{done.difference:.1g}"))


@router.get("/compare")
def compare(
    view: View, desk: AtDesk, run: Annotated[list[str] | None, Query(max_length=MOST_COMPARED)] = None
) -> Response:
    """Finished studies side by side."""
    finished = [one for one in desk.runs.all() if one.folder.card_json.is_file()]
    names = run or [one.name for one in finished[:2]]
    chosen = [(one, card) for one in finished if one.name in names and (card := _card(one)) is not None]
    rows = list(dict.fromkeys(figure.name for _, card in chosen for figure in card.figures))
    values = {(one.name, figure.name): figure for one, card in chosen for figure in card.figures}
    return view.show("compare.html.j2", finished=finished, chosen=chosen, rows=rows, values=values)


def _card(shown: Shown) -> ModelCard | None:
    try:
        return read_card(shown.folder.card_json)
    except FedctError:
        return None


def _safe(text: str) -> Markup:
    """What the report's own template or ``svg.to_svg`` made, where all text is escaped."""
    return Markup(text)  # noqa: S704
