"""Results: the report's own figures and tables, downloads, and studies side by side."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, HTTPException, Query
from markupsafe import Markup
from starlette.responses import FileResponse, Response

from common import svg
from common.errors import FedctError
from common.model_card import ModelCard, read_card
from common.web.gate import needs
from common.web.page import View
from server.checkpoints import records
from server.dashboard.desk import AtDesk, Name
from server.dashboard.shelf import Shown
from server.report import figures, page
from server.results import FinalMetrics, PrivacySummary, Results, SiteSummary, read_results

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
    shown = desk.runs.one(name)
    ready = desk.drawn(_key(shown))
    there = [file for file in FILES if (shown.folder.root / file).is_file()]
    return view.show("results.html.j2", run=shown, body=None if ready is None else _safe(ready), files=there)


@router.get("/studies/{name}/results/figures")
def drawn(desk: AtDesk, name: Name) -> Response:
    """The part of the results that takes time to draw."""
    shown = desk.runs.one(name)
    return Response(desk.drawn(_key(shown), lambda: _draw(shown)), media_type="text/html")


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


def _key(shown: Shown) -> tuple[str, ...]:
    """Another one whenever the results are others."""
    try:
        status = shown.folder.results_file.stat()
    except FileNotFoundError:
        return (shown.name, "rounds", str(shown.history.done))
    return (shown.name, "results", str(status.st_mtime_ns), str(status.st_size))


def _draw(shown: Shown) -> str:
    if shown.folder.results_file.is_file():
        return page.body(read_results(shown.folder.results_file))
    so_far = _so_far(shown)
    made = []
    with svg.style():
        if figures.has_curve(so_far):
            made.append(figures.curve(so_far, "accuracy", "accuracy", share=True))
            made.append(figures.curve(so_far, "log_loss", "log loss", share=False))
        if so_far.rounds:
            made.append(figures.participation(so_far))
    return "".join(f"<figure>{one}</figure>" for one in made)


def _so_far(shown: Shown) -> Results:
    """The rounds that are complete, as results to draw from; of privacy and an end nothing is said."""
    found = tuple(records(shown.folder.inner))
    names = sorted({part.site for record in found for part in record.participation})
    moment = shown.history.rounds[-1].time if shown.history.rounds else "1970-01-01T00:00:00+00:00"
    return Results(
        study_name=shown.study.name,
        study_digest=shown.study.digest,
        study=shown.study.model_dump(mode="json"),
        started=moment,  # type: ignore[arg-type] # read as a time
        finished=moment,  # type: ignore[arg-type]
        seed=0,
        versions={},
        outcome="finished",
        sites=tuple(SiteSummary(site=one, rounds_ok=0, rounds_missed=0, evaluation="withheld") for one in names),
        rounds=found,
        final=FinalMetrics(),
        privacy=PrivacySummary(on=False),
    )


def _safe(text: str) -> Markup:
    """What the report's own template or ``svg.to_svg`` made, where all text is escaped."""
    return Markup(text)  # noqa: S704
