"""fedct-site doctor: would this site take part in the next round, and if not, what is to be done?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.serve import Half
from common.console import print_json, say

if TYPE_CHECKING:
    from client.doctor import Check


def doctor(
    study: Annotated[
        Path | None, typer.Argument(help="The study file asked about; by default all approved ones.")
    ] = None,
    site: Annotated[Path, typer.Option(readable=False, help="The site folder; by default this one.")] = Path(),
    part: Annotated[Half | None, typer.Option(help="Check this half alone, as its user; by default both.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check machine, way to the coordinator, daemon, records and studies; code 13 if the site would not take part."""
    from client.doctor import diagnose
    from client.site import load_site
    from common.errors import NotHealthy
    from common.study import load_study

    parts = [half.value for half in Half if part in (None, half)]
    found = diagnose(load_site(site), parts, None if study is None else load_study(study))
    if as_json:
        checks = [{"number": number} | asdict(check) for number, check in enumerate(found.checks, start=1)]
        print_json({"site": found.site, "healthy": found.healthy, "checks": checks})
    else:
        width = max(len(check.name) for check in found.checks)
        for number, check in enumerate(found.checks, start=1):
            for line in lines(number, check, width):
                say(line)
    failed = sum(check.state == "fail" for check in found.checks)
    if failed:
        raise NotHealthy(
            f"site '{found.site}' would not take part in the next round: {failed} of {len(found.checks)} checks failed",
            "Each says what to do",
        )
    if not as_json:
        say(f"{found.site}: would take part in the next round")


def lines(number: int, check: Check, width: int) -> list[str]:
    """A check in one line, and its remedy in another."""
    shown = [
        f"{number:2} {check.state.upper() if check.state == 'fail' else check.state:4} {check.name:{width}}  {check.found}"
    ]
    return [*shown, f"{'':8}{'':{width}}  -> {check.remedy}"] if check.remedy else shown
