"""fedct-sim: simulated multi-site studies on one machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from common.console import command_line, err, run_cli, say, stage
from common.console import out as console
from common.errors import UsageError
from common.study import MOST_FOLDS, load_study

app = command_line("Simulate a consortium of hospitals on one machine.")


@app.command()
def phantom(
    out: Annotated[Path, typer.Option(help="Folder for the site folders.")],
    patients: Annotated[int, typer.Option(help="Patients in all.")] = 120,
    counts: Annotated[str, typer.Option(help="Patients a class: compression,burst,normal.")] = "",
    sites: Annotated[int, typer.Option(help="Hospitals.")] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 1,
) -> None:
    """Write synthetic spine CT of several hospitals as DICOM, with labels."""
    from simulations.phantom.hospitals import write_hospitals

    with stage(f"Writing CT of {patients} synthetic patients") as progress:
        made = write_hospitals(
            out, patients=patients, counts=_counts(counts), sites=sites, seed=seed, progress=progress
        )
    say(f"{len(made)} hospitals in '{out}'")


@app.command()
def split(
    dicom: Annotated[Path, typer.Option(help="Folder of DICOM files.")],
    labels: Annotated[Path, typer.Option(help="Label table.")],
    sites: Annotated[int, typer.Option(help="How many sites.")],
    out: Annotated[Path, typer.Option(help="Folder for the site folders.")],
    alpha: Annotated[float | None, typer.Option(help="Dirichlet label skew; smaller is stronger.")] = None,
    label_column: Annotated[str, typer.Option(help="Column of the label, for --alpha.")] = "label",
    seed: Annotated[int, typer.Option(help="Seed of the deal.")] = 0,
) -> None:
    """Deal a data set out to site folders, by patient."""
    from simulations.split import split as deal

    with stage("Reading DICOM headers") as progress:
        made = deal(
            dicom, labels, out, sites=sites, alpha=alpha, label_column=label_column, seed=seed, progress=progress
        )
    say(f"{len(made)} sites in '{out}'")


StudyArgument = Annotated[Path, typer.Argument(help="The study file.")]
SitesOption = Annotated[Path, typer.Option(help="Folder of site folders.")]
CompareOption = Annotated[str, typer.Option(help="Other ways to train, for comparison: local,central.")]
FoldsOption = Annotated[
    int | None, typer.Option("--cross-validation", min=2, max=MOST_FOLDS, help="Folds; each patient is tested once.")
]
LeaveOutOption = Annotated[
    bool, typer.Option("--leave-one-out", help="Also train without each hospital, and test there.")
]
SeedOption = Annotated[int, typer.Option(help="Experiment seed; never reaches privacy noise.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def run(
    study: StudyArgument,
    sites: SitesOption,
    out: Annotated[Path, typer.Option(help="Folder for results, report and model.")],
    compare: CompareOption = "",
    cross_validation: FoldsOption = None,
    leave_one_out: LeaveOutOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Then serve the coordinator's page with the run on it.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of --serve; 0 takes a free one.")] = 8460,
) -> None:
    """Run a study over simulated hospitals through Flower, to a report."""
    plan, kinds = load_study(study), [kind for kind in compare.split(",") if kind]
    if serve and (as_json or cross_validation or leave_one_out):
        raise UsageError("--serve shows one run, to people", "Leave out --json, --cross-validation and --leave-one-out")
    if cross_validation or leave_one_out:
        _compete([study], sites, out, kinds, cross_validation, leave_one_out, seed, as_json)
        return
    from server.report.table import summary_table
    from simulations.federation import run_federation

    with _progress_apart(as_json):
        results = run_federation(plan, sites, out, base=study.parent, seed=seed, kinds=kinds)
    if as_json:
        typer.echo(results.model_dump_json(indent=2))
        return
    console.print(summary_table(results))
    say(f"Report: {(out / 'report.html').resolve()}")
    if serve:
        from server.cli.dashboard import dashboard

        dashboard(run=out, port=port)


@app.command()
def compare(
    studies: Annotated[list[Path], typer.Argument(help="Study files.")],
    sites: SitesOption,
    out: Annotated[Path, typer.Option(help="Folder for the comparison, and a folder for each study.")],
    compare: CompareOption = "",
    cross_validation: FoldsOption = None,
    leave_one_out: LeaveOutOption = False,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Run several studies over the same hospitals and patients, and test what differs."""
    kinds = [kind for kind in compare.split(",") if kind]
    _compete(studies, sites, out, kinds, cross_validation, leave_one_out, seed, as_json)


def _compete(
    studies: list[Path],
    sites: Path,
    out: Path,
    kinds: list[str],
    folds: int | None,
    leave_one_out: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Run what is to be compared; the findings, and where the page is."""
    plans = [(load_study(study), study.parent) for study in studies]
    from simulations.compare.contest import PAGE, Entry, compete
    from simulations.compare.page import summary

    with _progress_apart(as_json):
        entries = [Entry(plan, base) for plan, base in plans]
        found = compete(entries, sites, out, kinds=kinds, leave_one_out=leave_one_out, folds=folds, seed=seed)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    console.print(summary(found))
    for line in found.findings:
        say(line)
    say(f"Comparison: {(out / PAGE).resolve()}")


@contextlib.contextmanager
def _progress_apart(apart: bool) -> Iterator[None]:
    """With ``apart``, what is printed meanwhile goes to standard error, so that a program reads JSON alone."""
    with contextlib.redirect_stdout(sys.stderr) if apart else contextlib.nullcontext():
        yield


@app.command()
def audit(
    study: Annotated[Path, typer.Argument(help="The study file.")],
    canaries: Annotated[int, typer.Option(help="Planted patients of the one-run audit.")] = 1000,
    out: Annotated[Path, typer.Option(help="Folder for audit.html and audit.json.")] = Path("audit"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Audit a study's privacy on synthetic patients: replay, canaries, attacks."""
    plan = load_study(study)
    from simulations.audit.run import PAGE, require_pass, write_audit
    from simulations.audit.run import audit as run_audit

    found = run_audit(plan, canaries, err if as_json else console)
    write_audit(found, out)
    if as_json:
        typer.echo(found.to_json(), nl=False)
    else:
        for check in found.checks:
            say(f"{'passed' if check.passed else 'FAILED'}  {check.part}, {check.name}: {check.found}")
        say(f"Audit: {(out / PAGE).resolve()}")
    require_pass(found)


def _counts(text: str) -> tuple[int, ...] | None:
    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--counts '{text}': expected three whole numbers such as 279,295,124") from None


def main() -> None:
    """Entry point of fedct-sim."""
    run_cli(app, "fedct-sim")
