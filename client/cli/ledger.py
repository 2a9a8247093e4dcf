"""fedct-site ledger: what privacy this site's patients have spent, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from common.console import out, say


def ledger(site: Annotated[Path, typer.Option(help="The site folder, with its site.toml.")]) -> None:
    """Verify the privacy ledger and show every charge and release."""
    from client.ledger import Ledger
    from client.site import load_site

    opened = load_site(site)
    if not opened.ledger_file.exists():
        say(f"{opened.name}: nothing was ever charged")
        return
    book = Ledger(opened.ledger_file)
    table = Table("row", "time (UTC)", "what", "study", "round", "note")
    for entry in book.entries():
        when = entry.time[:19].replace("T", " ")
        table.add_row(str(entry.id), when, entry.kind, entry.study[:12], str(entry.round), entry.note)
    out.print(table)
    policy, cohort = opened.config.policy, opened.config.cohort
    spent = book.spent(cohort, policy.max_delta)
    say(
        f"Cohort '{cohort}': epsilon {spent:.3f} of {policy.max_epsilon:g} spent at delta {policy.max_delta:g} "
        "(per patient, add or remove one; PLD); the chain is intact"
    )
