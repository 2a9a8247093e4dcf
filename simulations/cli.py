"""fedct-sim: simulated multi-site studies on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import out as console
from common.console import run_cli, say, stage
from common.errors import UsageError
from common.study import load_study

app = typer.Typer(
    help="Simulate a consortium of hospitals on one machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


@app.command()
def run(
    study: Annotated[Path, typer.Argument(help="The study file.")],
    sites: Annotated[Path, typer.Option(help="Folder of site folders.")],
    out: Annotated[Path, typer.Option(help="Folder for results, report and model.")],
    compare: Annotated[str, typer.Option(help="Comparisons to add: local,central.")] = "",
    seed: Annotated[int, typer.Option(help="Experiment seed; never reaches privacy noise.")] = 0,
) -> None:
    """Run a study over simulated hospitals through Flower, to a report."""
    plan = load_study(study)
    from server.report.table import summary_table
    from simulations.federation import run_federation

    kinds = [kind for kind in compare.split(",") if kind]
    results = run_federation(plan, sites, out, base=study.parent, seed=seed, kinds=kinds)
    console.print(summary_table(results))
    say(f"Report: {(out / 'report.html').resolve()}")


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
