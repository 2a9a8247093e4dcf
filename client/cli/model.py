"""fedct-site model: what is known of a model file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from common.console import print_json, say

app = typer.Typer(help="Models: where a model file comes from.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Models: where a model file comes from."""


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="The model.safetensors, or the folder that it lies in.")],
    site: Annotated[Path | None, typer.Option(help="A site folder: the study key is that of its coordinator.")] = None,
    study_key: Annotated[str, typer.Option(help="The coordinator's study key, 64 hex digits.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Check every link from the study to the model file, and the coordinator's signature under it.

    Without --site or --study-key nobody vouches for the chain: it is checked for damage only, and this says so.
    """
    from common.provenance import verify as check

    found = check(model, _key(site, study_key))
    if as_json:
        print_json(asdict(found))
        return
    say(f"study {found.study}")
    compared = "compared with results.json" if found.records else "not compared: results.json does not lie beside it"
    say(f"{found.rounds} rounds, chained; {compared}")
    say(f"model {found.model}")
    if found.vouched:
        say("Signed by the coordinator")
    elif found.signed:
        say("SIGNATURE NOT CHECKED: give --site, or --study-key, to learn whose it is")
    else:
        say("NOT SIGNED: whoever can write these files can have made them; a simulation's are never signed")


def _key(site: Path | None, study_key: str) -> str:
    """The study key that counts. Raises UsageError if two are given, TrustError if the site joined nobody."""
    from client.site import load_site
    from common.errors import TrustError, UsageError

    if site is None:
        return study_key
    if study_key:
        raise UsageError("both --site and --study-key are given", "Give one of them")
    opened = load_site(site)
    if not opened.joined:
        raise TrustError(f"site '{opened.name}' joined no coordinator, so it has no study key", "Give --study-key")
    return opened.config.coordinator.study_key
