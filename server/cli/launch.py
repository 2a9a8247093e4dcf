"""fedct-coordinator launch: start a study with the sites that are connected."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.clock import now
from common.console import say
from server.cli.options import HERE, FolderOption
from server.cli.sign import write_signature


def launch(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study file.")],
    folder: FolderOption = HERE,
    seed: Annotated[int, typer.Option(help="Fixes the initial weights, and draws without privacy.")] = 0,
) -> None:
    """Sign a study as 'sign' does, and start it; sites that have approved it take part."""
    from common.study import load_study
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.launch import launch as start

    loaded = load_study(study)
    opened = open_coordinator(folder)
    write_signature(study, loaded, opened)
    started = start(daemon_of(opened), loaded, study.parent, seed=seed, now=now())
    say(f"Started '{loaded.name}' ({loaded.digest[:12]}), Flower's run {started.run}")
    say(f"Results go to '{started.folder.root}'")
