"""fedct-coordinator export: a run's model in formats that other programs read."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from common.console import print_json, say
from server.cli.options import JsonOption


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run: its --out, or runs/NAME of the coordinator.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Write model.onnx.")] = False,
    torchscript: Annotated[bool, typer.Option("--torchscript", help="Write model.torchscript.pt.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a run's model as ONNX, TorchScript or both, beside it; each is compared with the original first."""
    from common.errors import UsageError
    from server.export import export_model
    from server.run_folder import RunFolder

    if not (onnx or torchscript):
        raise UsageError("no format is asked for", "Give --onnx, --torchscript or both")
    done = export_model(RunFolder(run), to_onnx=onnx, to_torchscript=torchscript)
    if as_json:
        print_json([asdict(one) for one in done])
        return
    for one in done:
        say(f"{run / one.name}: gives the same logits as the original, to {one.difference:.1g} of the largest")
