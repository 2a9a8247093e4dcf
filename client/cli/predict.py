"""fedct-site predict: what a trained model says of one new CT study."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.console import err, out, print_json, say, stage


def predict(
    source: Annotated[Path, typer.Argument(help="The DICOM folder, or zip file, of one CT study.")],
    model: Annotated[Path, typer.Option(help="The model.safetensors of a run.")],
    study: Annotated[Path, typer.Option(help="The study file that the model was trained by.")],
    folder: Annotated[Path, typer.Option("--out", help="A new folder for the results.")],
    site: Annotated[Path | None, typer.Option(help="A site folder, whose audit log gets an entry.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print prediction.json, for programs.")] = False,
) -> None:
    """Ask a trained model about a new CT study. Research output: not for clinical use.

    Writes probabilities (prediction.json), a page for people (report.html), and DICOM for a viewer: heat maps, their
    values in space, and a structured report. All of it stays here.
    """
    from client.audit_log import AuditLog
    from client.prediction import trust
    from client.prediction.dicom import make_objects
    from client.prediction.page import in_words, render_page
    from client.prediction.predict import answer
    from client.prediction.source import read_new_study
    from client.prediction.write import WARNING, check_new, summary, write_answer
    from client.site import load_site
    from common.models.saved import load_saved
    from common.study import load_study

    check_new(folder)
    place = load_site(site) if site is not None else None
    plan = load_study(study)
    trained = load_saved(model, plan)
    card = trust.card_of(model, trained)
    with stage("Reading DICOM", err if as_json else out) as progress:
        new = read_new_study(source, plan, progress)
    found = answer(trained, plan, new)
    content = summary(new, plan, trained, found, trust.as_json(card, found))
    page = render_page(new, plan, trained, found, trust.in_words(card, found), datetime.now(UTC))
    write_answer(folder, content, page, make_objects(new, plan, trained, found))
    if place is not None:
        AuditLog(place.audit_file).append("predicted", {"study": plan.digest, "model": trained.sha256})
    if as_json:
        print_json(content)
        return
    for line in (in_words(found), *trust.in_words(card, found)):
        say(line)
    say(f"{folder / 'report.html'}: the same with pictures; DICOM for a viewer lies beside it")
    say(WARNING)
