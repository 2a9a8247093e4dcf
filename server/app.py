"""The Flower ServerApp of the coordinator: which study, which folder, then ``server.run``.

The bundle that Flower distributes holds references and settings only. ``study`` (a digest), ``seed`` and
``run`` come from the run config; the study itself lies in the run folder, which is folder ``run`` of the one
that the coordinator named in ``FEDCT_RUN``, and must have that digest.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import httpx
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import FedctError, RunError
from server.arrays import spare_memory
from server.delivery import wait_less
from server.run import run_study
from server.run_folder import RUN_VARIABLE, RunFolder

RUN_NAME = re.compile(r"([a-z0-9][a-z0-9._-]{0,99})?")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of this run's folder; what ends it is on the event log before it is raised."""
    spare_memory()
    wait_less()
    root = os.environ.get(RUN_VARIABLE)
    if root is None:
        raise RunError(f"{RUN_VARIABLE} is not set", "Start the run with fedct-sim or fedct-coordinator")
    name = str(context.run_config["run"])
    if not RUN_NAME.fullmatch(name):
        raise RunError(f"run = {name!r} is not the plain name of a run folder")
    folder = RunFolder(Path(root) / name)
    study = folder.study(str(context.run_config["study"]))
    seed, simulated = int(str(context.run_config["seed"])), bool(context.run_config["simulated"])
    try:
        run_study(grid, study, folder, seed, simulated=simulated)
    except FedctError:
        raise
    except httpx.HTTPError as error:  # the SuperLink is gone, or has given this run up: it can be resumed
        folder.event("interrupted", reason=type(error).__name__)
        raise
    except Exception as error:
        folder.event("end", outcome="failed", reason=f"{type(error).__name__}: {error}")
        raise
