"""fedct-coordinator rounds: who took part in each round of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from common.console import out, print_json, say
from server.cli.options import HERE, FolderOption, JsonOption, RunArgument

if TYPE_CHECKING:
    from server.results import RoundRecord


def rounds(name: RunArgument, folder: FolderOption = HERE, as_json: JsonOption = False) -> None:
    """Show each complete round of a run: who answered, who did not and why, time and bytes."""
    from server.checkpoints import records
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.results import RoundRecord
    from server.runs import find_run, under_way

    run = find_run(daemon_of(open_coordinator(folder)), name)
    found = records(run.inner, RoundRecord)  # one at a time: those of 100 sites are large
    if as_json:
        print_json([record.model_dump(mode="json", exclude={"metrics", "site_metrics"}) for record in found])
        return
    table = Table("round", "ok", "who did not take part", "seconds", "MB down", "MB up")
    for record in found:
        table.add_row(*_row(record))
    out.print(table)
    now = under_way(run)
    if now:
        what = "The last evaluation" if now.final else f"Round {now.round}"
        say(f"{what} is under way: {len(now.answered)} of {len(now.asked)} sites have answered")


def _row(record: RoundRecord) -> list[str]:
    parts = record.participation
    ok = sum(part.status == "ok" for part in parts)
    missing = ", ".join(f"{p.site} {p.status} ({p.reason})" for p in parts if p.status != "ok")
    sizes = [f"{size / 1e6:.1f}" for size in (record.bytes_down, record.bytes_up)]
    return [str(record.round), f"{ok}/{len(parts)}", missing, f"{record.seconds:.0f}", *sizes]
