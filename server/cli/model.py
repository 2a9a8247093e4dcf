"""fedct-coordinator model: the newest global model of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.console import say
from common.errors import UsageError
from server.cli.options import HERE, FolderOption, RunArgument


def model(
    name: RunArgument,
    out: Annotated[Path, typer.Option(help="File to write, safetensors.")],
    folder: FolderOption = HERE,
) -> None:
    """Write the model after the last complete round, also of a run that goes on or has failed."""
    from common.models.resnet import empty_model
    from common.models.weights import load_vector
    from server import checkpoints
    from server.coordinator import open_coordinator
    from server.daemon import daemon_of
    from server.run import save_model
    from server.runs import find_run

    if out.exists():
        raise UsageError(f"'{out}' exists already", "Choose another name; nothing is written over")
    run = find_run(daemon_of(open_coordinator(folder)), name)
    study = run.study()
    last = checkpoints.newest(run.inner, study.digest)
    if last is None:
        raise UsageError(f"run '{name}' has no complete round", "Wait for its first one: 'fedct-coordinator runs'")
    network = empty_model(study)
    load_vector(network, last.weights)
    digest = save_model(study, network, out)
    say(f"Model after round {last.round} of {study.federation.rounds} in '{out}'")
    say(f"SHA-256 of the file  {digest}")
    say(f"SHA-256 of the study {study.digest}")
