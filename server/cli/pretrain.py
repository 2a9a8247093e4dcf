"""fedct-coordinator pretrain: initial weights that cost no privacy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say, stage
from common.study import load_study


def pretrain(
    study: Annotated[Path, typer.Argument(help="The study file: its network and input are taken.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    images: Annotated[int, typer.Option(min=1, help="Scenes to learn from.")] = 40_000,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same scenes.")] = 0,
) -> None:
    """Learn from random-process images, without patients or downloads; goes on where it was broken off."""
    plan = load_study(study)
    from server.pretraining.train import pretrain as learn

    with stage(f"Learning from {images} scenes") as progress:
        digest = learn(plan, out, images=images, seed=seed, progress=progress)
    say(f"'{out}' holds the weights. In the study file, section [model], a path starts at the study file:")
    say(f'  initial = "{out.name}"')
    say(f'  initial_sha256 = "{digest}"')
