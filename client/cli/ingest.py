"""fedct-site ingest: the DICOM folder of site.toml becomes the cohort of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say, stage
from common.study import load_study


def ingest(
    study: Annotated[Path, typer.Option(help="The study file.")],
    site: Annotated[Path, typer.Option(help="The site folder, with its site.toml.")],
) -> None:
    """Read the site's DICOM folder and labels into the cohort of a study."""
    from client.ingest import ingest as build
    from client.site import load_site

    plan = load_study(study)
    with stage("Reading DICOM") as progress:
        report = build(load_site(site), plan, progress)
    for line in report.lines():
        say(line)
