"""fedct-site explain: what a trained model looked at in the site's own patients."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from common.console import say


def explain(
    site: Annotated[Path, typer.Option(help="The site folder, with the study's cohort.")],
    study: Annotated[Path, typer.Option(help="The study file that the model was trained by.")],
    model: Annotated[Path, typer.Option(help="The model.safetensors of a run.")],
    page: Annotated[Path, typer.Option("--out", help="The page to write; it shows images of patients.")],
) -> None:
    """Show what a model looked at in the site's held-out patients: a page with hits and misses of every class."""
    from client.audit_log import AuditLog
    from client.ingest.cohort import open_cohort
    from client.prediction.gallery import make_gallery, render_gallery
    from client.site import load_site
    from common.files import write_atomic
    from common.models.saved import load_saved
    from common.study import load_study

    place, plan = load_site(site), load_study(study)
    trained = load_saved(model, plan)
    cohort = open_cohort(place, plan)
    gallery = make_gallery(cohort, plan, trained)
    text = render_gallery(gallery, plan, trained, len(cohort.holdout_patients()), datetime.now(UTC))
    write_atomic(page.absolute(), text.encode())
    AuditLog(place.audit_file).append("explained", {"study": plan.digest, "model": trained.sha256})
    say(f"{page}: what the model looked at; it shows images of patients, and stays here")
