"""fedct-site study: look at a study, and agree to it or not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from common.console import print_json, say

app = typer.Typer(help="Studies: what they would do here, and whether they may.", no_args_is_help=True)

StudyArgument = Annotated[Path, typer.Argument(help="The study file; its signature lies beside it, with .sig added.")]
SiteOption = Annotated[Path, typer.Option("--site", help="The site folder; by default this one.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
HERE = Path()


@app.command()
def review(study: StudyArgument, site: SiteOption = HERE, as_json: JsonOption = False) -> None:
    """Say in plain words what a study would do, with whose data, and what it would cost; changes nothing."""
    from client.approval import review as look
    from client.approval_words import lines
    from client.cli.ledger import forecast_lines
    from client.site import load_site
    from common.study import load_study

    plan, opened = load_study(study), load_site(site)
    found = look(opened, plan, _signature(study))
    if as_json:
        cost = asdict(found.forecast) | {"fits": found.forecast.fits}
        content = {
            "site": opened.name,
            "study": plan.name,
            "digest": plan.digest,
            "signature_problem": found.signature,
            "approved": found.forecast.approved,
            "cohort": asdict(found.cohort) if found.cohort else None,
            "forecast": cost,
        }
        print_json(content)
        return
    for line in lines(opened, plan, found):
        say(line)
    for line in forecast_lines(plan.name, found.forecast):
        say(line)


@app.command()
def approve(study: StudyArgument, site: SiteOption = HERE, as_json: JsonOption = False) -> None:
    """Agree to a study: from now on it may run here, within the site's limits."""
    from client.approval import approve as agree
    from client.site import load_site
    from common.study import load_study

    plan, opened = load_study(study), load_site(site)
    agree(opened, plan, _signature(study))
    if as_json:
        print_json({"site": opened.name, "study": plan.name, "digest": plan.digest, "approved": True})
    else:
        say(f"{opened.name}: study '{plan.name}' is approved, digest {plan.digest}")


@app.command()
def refuse(study: StudyArgument, site: SiteOption = HERE, as_json: JsonOption = False) -> None:
    """Refuse a study; an approval that it had is taken back, and its next round is refused."""
    from client.approval import refuse as decline
    from client.site import load_site
    from common.study import load_study

    plan, opened = load_study(study), load_site(site)
    had = decline(opened, plan)
    if as_json:
        print_json({"site": opened.name, "study": plan.name, "digest": plan.digest, "approved": False, "was": had})
    else:
        say(f"{opened.name}: study '{plan.name}' is refused" + ("; its approval is taken back" if had else ""))


def _signature(study: Path) -> str:
    """The signature beside a study file; "" if there is none, which only a simulated site accepts."""
    from common.pki.signature import read_signature, signature_file

    return read_signature(signature_file(study))
