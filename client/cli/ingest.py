"""fedct-site ingest: a DICOM folder and its labels become the cohort of a study."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.console import err, out, say, stage
from common.errors import DataError, SiteError, UsageError
from common.files import write_atomic
from common.study import load_study

if TYPE_CHECKING:
    from client.ingest import IngestReport
    from client.site import Site


def ingest(
    study: Annotated[Path, typer.Option(help="The study file.")],
    site: Annotated[Path, typer.Option(help="The site folder; made, with the strictest policy, if it is new.")],
    dicom_dir: Annotated[Path | None, typer.Argument(help="The DICOM folder; by default that of site.toml.")] = None,
    labels: Annotated[Path | None, typer.Option(help="The label table; by default that of site.toml.")] = None,
    refused: Annotated[
        Path | None, typer.Option(help="Write the path of every file left out, and why, to this CSV file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Read a DICOM folder and its labels into the cohort of a study, and report on every file.

    DICOM_DIR and --labels are for this run; those of site.toml are taken where they are left out.
    """
    from client.ingest import ingest as build

    plan = load_study(study)
    console = err if json else out
    opened, is_new = _open_or_make(site, dicom_dir, labels)
    if is_new:
        say(f"Made site '{opened.name}' with the strictest policy; its settings are in site.toml", console)
    with stage("Reading DICOM", console) as progress:
        report = build(opened, plan, progress, dicom=dicom_dir, labels=labels, reuse=refused is None)
    if refused is not None:
        write_atomic(refused.absolute(), refused_table(report).encode("utf-8", "surrogateescape"))
    if json:
        typer.echo(report.to_json())
        return
    for line in report.lines():
        say(line)
    say("Look at the pictures before the cohort is used: 'fedct-site cohort show --page FILE' writes the report's page")


def _open_or_make(folder: Path, dicom: Path | None, labels: Path | None) -> tuple[Site, bool]:
    """The site in ``folder``, and whether it was made just now."""
    from client.site import DataSettings, SiteConfig, create_site, load_site

    if (folder / "site.toml").exists():
        return load_site(folder), False
    if dicom is None:
        raise UsageError(f"'{folder}' has no site.toml, so it is not known where the DICOM lies", "Give DICOM_DIR")
    if not dicom.is_dir():
        raise UsageError(f"DICOM folder '{dicom}' does not exist", "Give the folder of the DICOM export")
    if labels is not None and not labels.is_file():
        raise DataError(f"label table '{labels}' does not exist", "Give a CSV file")
    data = DataSettings(dicom=str(dicom.resolve()))
    if labels is not None:
        data = data.model_copy(update={"labels": str(labels.resolve())})
    config = SiteConfig(name=site_name(folder), data=data)
    return create_site(folder, config), True


def site_name(folder: Path) -> str:
    """A name that site.toml allows, as near to the folder's as can be. Raises SiteError if there is none."""
    name = re.sub(r"[^a-z0-9._-]+", "-", folder.resolve().name.lower()).strip("-._")[:63]
    if not name:
        raise SiteError(f"no site name can be made of '{folder}'", "Name the folder with letters or digits")
    return name


def refused_table(report: IngestReport) -> str:
    """CSV of path, reason and detail of every source left out; paths are those of the DICOM folder."""
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["path", "reason", "detail"])
    writer.writerows((skip.path, skip.reason.value, skip.detail) for skip in report.skips)
    return file.getvalue()
