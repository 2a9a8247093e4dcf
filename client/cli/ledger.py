"""fedct-site ledger: what privacy this site's patients have spent, and what a study would cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from common.console import out, print_json, say
from common.errors import UsageError

if TYPE_CHECKING:
    from client.budget import CohortSpending, Forecast
    from client.ledger import Ledger
    from client.site import Site

app = typer.Typer(help="The privacy ledger: what was spent, and what a study would cost.", no_args_is_help=True)

SiteOption = Annotated[Path, typer.Option("--site", help="The site folder, with its site.toml.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_UNIT = "patient, add or remove one"


@app.command()
def show(site: SiteOption, as_json: JsonOption = False) -> None:
    """Verify the ledger, and show what each study spent and what is left."""
    from client.budget import spending

    opened, book = _open(site)
    entries = book.entries() if book else ()
    cohorts = spending(opened, entries)
    policy = opened.config.policy
    if as_json:
        print_json(
            {
                "site": opened.name,
                "unit": _UNIT,
                "accountant": "PLD",
                "max_epsilon": policy.max_epsilon,
                "delta": policy.max_delta,
                "rows": len(entries),
                "head": entries[-1].hash if entries else None,
                "cohorts": [asdict(cohort) for cohort in cohorts],
            }
        )
        return
    for cohort in cohorts:
        if cohort.studies:
            out.print(_table(cohort))
        say(
            f"Cohort '{cohort.cohort}': epsilon {cohort.epsilon:.3f} of {policy.max_epsilon:g} spent at delta "
            f"{policy.max_delta:g} (per {_UNIT}; PLD, cross-check by RDP {cohort.epsilon_rdp:.3f})"
        )
    say(f"{len(entries)} rows, the chain is intact" if book else f"{opened.name}: nothing was ever charged")


@app.command()
def verify(
    site: Annotated[Path | None, typer.Option("--site", help="The site folder, with its site.toml.")] = None,
    export: Annotated[Path | None, typer.Option(help="A file that 'ledger export' wrote, now or long ago.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every row and the chain; with an export, that it still is the ledger's beginning."""
    from client.ledger_export import check_export, read_export

    if site is None and export is None:
        raise UsageError("nothing to verify", "Give --site, --export or both")
    found: dict[str, Any] = {}
    if site is not None:
        opened, book = _open(site)
        entries = book.entries() if book else ()
        found |= {"site": opened.name, "rows": len(entries), "head": entries[-1].hash if entries else None}
        if export is not None:
            found["export_rows"] = check_export(export, entries)
    elif export is not None:
        hashes = read_export(export)
        found |= {"export_rows": len(hashes), "head": hashes[-1] if hashes else None}
    if as_json:
        print_json(found)
        return
    if "rows" in found:
        say(f"{found['site']}: {found['rows']} rows, the chain is intact" + _ending(found["head"]))
    if "export_rows" in found:
        what = "the first of the ledger" if "rows" in found else "the chain is intact" + _ending(found["head"])
        say(f"{export}: {found['export_rows']} rows, {what}")


@app.command()
def forecast(
    study: Annotated[Path, typer.Argument(help="The study file.")], site: SiteOption, as_json: JsonOption = False
) -> None:
    """Say what a study would cost in all, before it is approved; nothing is charged."""
    from client.budget import forecast as ask
    from common.study import load_study

    plan = load_study(study)
    opened, book = _open(site)
    answer = ask(opened, plan, book)
    if as_json:
        content = {"site": opened.name, "study": plan.name, "digest": plan.digest, "unit": _UNIT, "accountant": "PLD"}
        print_json({**content, **asdict(answer), "fits": answer.fits})
        return
    for line in forecast_lines(plan.name, answer):
        say(line)


@app.command()
def export(
    site: SiteOption, out_file: Annotated[Path | None, typer.Option("--out", help="A file; else the terminal.")] = None
) -> None:
    """Write every row with its hashes, one line of JSON each, for anybody to verify."""
    from client.ledger_export import export_text
    from common.files import write_atomic

    _, book = _open(site)
    text = export_text(book.entries()) if book else ""
    if out_file is None:
        typer.echo(text, nl=False)
        return
    write_atomic(out_file, text.encode())
    say(f"{out_file}: {len(text.splitlines())} rows")


def _open(folder: Path) -> tuple[Site, Ledger | None]:
    """The site and its ledger; None when there never was one. A ledger that is gone raises LedgerError."""
    from client.budget import site_ledger
    from client.site import load_site

    site = load_site(folder)
    return site, site_ledger(site)


def _table(cohort: CohortSpending) -> Table:
    table = Table("study", "digest", "charges", "steps", "evaluated", "refused", "alone")
    for study in cohort.studies:
        numbers = (len(study.rounds), study.steps, study.evaluations, study.refused)
        table.add_row(study.name or "(no approval)", study.digest[:12], *map(str, numbers), f"{study.epsilon:.3f}")
    return table


def forecast_lines(name: str, answer: Forecast) -> list[str]:
    """What a study would cost, in lines for a person."""
    plural = "s" if answer.evaluations != 1 else ""
    lines = [
        f"Study '{name}', {answer.rounds} rounds, cohort '{answer.cohort}', at delta {answer.delta:g} (per {_UNIT}; PLD):",
        f"  training alone                  epsilon {answer.training:.3f}",
        f"  with {answer.evaluations} noised evaluation{plural}".ljust(34) + f"epsilon {answer.whole:.3f}",
        f"  spent before                    epsilon {answer.spent:.3f} of {answer.max_epsilon:g}",
        f"  spent after                     epsilon {answer.after:.3f} (cross-check by RDP {answer.after_rdp:.3f})",
    ]
    if answer.folds > 1:
        over = ", more than the budget" if answer.after_folds > answer.max_epsilon else ""
        lines.append(f"  after all {answer.folds} folds".ljust(34) + f"epsilon {answer.after_folds:.3f}{over}")
        lines.append(
            "Each fold is a study of its own, approved and charged on its own; most patients train all but one."
        )
    if answer.charges:
        lines.append(f"It was charged {answer.charges} times already; the figures add all its rounds once more.")
    if answer.rounds_left is None:
        lines.append("It charges nothing.")
    else:
        lines.append(f"The budget has room for {answer.rounds_left} more rounds like its own.")
    if answer.refusal:
        lines.append(f"Refused by the site's policy: {answer.refusal}.")
    elif not answer.fits:
        lines.append(f"Refused by the budget: it would end above {answer.max_epsilon:g}.")
    else:
        lines.append("It fits the budget." + ("" if answer.approved else " It is not approved yet."))
    return lines


def _ending(head: str | None) -> str:
    return f" and ends in {head}" if head else ""
