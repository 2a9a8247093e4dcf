"""fedct-coordinator logs: what happened in a run, as it happened."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from common.console import say
from server.cli.options import HERE, FolderOption, RunArgument

POLL_SECONDS = 0.5
FIRST = ("time", "event", "round", "site")


def logs(
    name: RunArgument,
    folder: FolderOption = HERE,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
) -> None:
    """Show the events of a run, one a line; run/events.jsonl of its folder holds them for programs."""
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.runs import find_run

    run = find_run(daemon_of(open_coordinator(folder)), name)
    events, position = run.events()
    for event in events:
        say(_line(event))
    while follow and not (events and events[-1]["event"] == "end"):
        time.sleep(POLL_SECONDS)
        more, position = run.events(position)
        for event in more:
            say(_line(event))
        events = more or events


def _line(event: dict[str, Any]) -> str:
    """Time, kind, round and site, then what else is said of it."""
    rest = {key: value for key, value in event.items() if key not in FIRST and value not in ("", None)}
    where = [f"round {event['round']}"] if "round" in event else []
    where += [str(event["site"])] if "site" in event else []
    details = [f"{key}={round(value, 3) if isinstance(value, float) else value}" for key, value in rest.items()]
    return "  ".join([event.get("time", ""), event["event"], *where, *details])
