"""The Flower ServerApp of the coordinator: which study, which folder, then ``server.run``.

The bundle that Flower distributes holds references and settings only. ``study`` (a digest), ``seed`` and
``run`` come from the run config; the study itself lies in the run folder, which is folder ``run`` of the one
that the coordinator named in ``FEDCT_RUN``, and must have that digest. Unless the run is a simulation,
``FEDCT_COORDINATOR`` names the folder of the coordinator, whose study key signs the result.
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
from server.coordinator import COORDINATOR_VARIABLE, Coordinator, open_coordinator
from server.run import run_study
from server.run_folder import RUN_VARIABLE, RunFolder

RUN_NAME = re.compile(r"([a-z0-9][a-z0-9._-]{0,99})?")

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of this run's folder; what ends it is on the event log before it is raised."""
    spare_memory()
    root = os.environ.get(RUN_VARIABLE)
    if root is None:
        raise RunError(f"{RUN_VARIABLE} is not set", "Start the run with fedct-sim or fedct-coordinator")
    name = str(context.run_config["run"])
    if not RUN_NAME.fullmatch(name):
        raise RunError(f"run = {name!r} is not the plain name of a run folder")
    folder = RunFolder(Path(root) / name)
    study = folder.study(str(context.run_config["study"]))
    seed = int(str(context.run_config["seed"]))
    try:
        coordinator = None if context.run_config["simulated"] else _coordinator()
        run_study(grid, study, folder, seed, coordinator)
    except FedctError:
        raise
    except httpx.HTTPError as error:  # the SuperLink is gone, or has given this run up: it can be resumed
        folder.event("interrupted", reason=type(error).__name__)
        raise
    except Exception as error:
        folder.event("end", outcome="failed", reason=f"{type(error).__name__}: {error}")
        raise


def _coordinator() -> Coordinator:
    """The coordinator whose run this is. Raises RunError or CoordinatorError, before anybody is asked, if it can't sign."""
    home = os.environ.get(COORDINATOR_VARIABLE)
    if home is None:
        raise RunError(f"{COORDINATOR_VARIABLE} is not set", "Start the run with fedct-coordinator")
    found = open_coordinator(Path(home))
    found.study_key()
    return found
