"""fedct-coordinator runs: which studies ran, which run, and how far they are."""

from __future__ import annotations

from dataclasses import asdict

from rich.table import Table

from common.console import out, print_json, say
from server.cli.options import HERE, FolderOption, JsonOption


def runs(
    folder: FolderOption = HERE,
    as_json: JsonOption = False,
) -> None:
    """Show every run: the round that was completed last, and how it ended."""
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.runs import standings

    daemon = daemon_of(open_coordinator(folder))
    found = standings(daemon)
    if as_json:
        print_json([asdict(one) for one in found])
        return
    if not found:
        say("No study was launched yet")
        return
    table = Table("run", "state", "round", "reason")
    for one in found:
        table.add_row(one.name, one.state, f"{one.round}/{one.rounds}", one.reason)
    out.print(table)
