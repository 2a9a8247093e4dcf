"""fedct-site cohort: what was ingested at this site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.console import say
from common.errors import DataError, UsageError
from common.files import write_atomic
from common.study import load_study

if TYPE_CHECKING:
    from client.ingest import Cohort
    from client.site import Site

cohort = typer.Typer(help="The cohorts that were ingested at this site.", no_args_is_help=True)


@cohort.callback()
def _group() -> None:
    """The cohorts that were ingested at this site."""


@cohort.command()
def show(
    site: Annotated[Path, typer.Option(help="The site folder, with its site.toml.")],
    study: Annotated[Path | None, typer.Option(help="The study file; by default all cohorts are shown.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON and nothing else.")] = False,
    page: Annotated[Path | None, typer.Option(help="Write the report's page, with images of patients, here.")] = None,
) -> None:
    """Show what became of the DICOM folder: numbers, reasons and trouble with labels."""
    from client.ingest.report import IngestReport
    from client.ingest.report_page import REPORT_HTML, REPORT_JSON
    from client.site import load_site

    found = _cohorts(load_site(site), study)
    if page is not None:
        if len(found) > 1:
            raise UsageError(f"--page takes one cohort; there are {len(found)}", "Give --study as well")
        write_atomic(page.absolute(), found[0].read_file(REPORT_HTML))
    reports = [IngestReport.from_json(one.read_file(REPORT_JSON)) for one in found]
    if json:
        texts = [report.to_json() for report in reports]
        typer.echo(texts[0] if study is not None else f"[{', '.join(texts)}]")
        return
    for report in reports:
        for line in report.lines():
            say(line)
    if page is not None:
        say(f"The page is in {page}; it shows images of patients")


def _cohorts(site: Site, study: Path | None) -> list[Cohort]:
    """The cohort of the study, or all of the site. Raises DataError if there is none."""
    from client.ingest.cohort import open_cohort, open_folder

    if study is not None:
        return [open_cohort(site, load_study(study))]
    folders = sorted(path for path in site.cohorts_dir.glob("[!.]*") if path.is_dir())
    if not folders:
        raise DataError(f"site '{site.name}' has no cohort", "Run 'fedct-site ingest'")
    return [open_folder(site, folder) for folder in folders]
