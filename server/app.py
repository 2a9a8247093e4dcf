"""The Flower ServerApp of the coordinator: which study, which folder, then ``server.run``.

The bundle that Flower distributes holds references and settings only. ``study`` (a digest) and
``seed`` come from the run config; the study itself lies in the run folder that the coordinator
named in ``FEDCT_RUN``, and must have that digest.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.errors import FedctError, RunError
from server.run import run_study
from server.run_folder import RunFolder

RUN_VARIABLE = "FEDCT_RUN"

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study of this run's folder; a failure is on the event log before it is raised."""
    root = os.environ.get(RUN_VARIABLE)
    if root is None:
        raise RunError(f"{RUN_VARIABLE} is not set", "Start the run with fedct-sim")
    folder = RunFolder(Path(root))
    try:
        run_study(
            grid,
            folder.study(str(context.run_config["study"])),
            folder,
            int(str(context.run_config["seed"])),
            simulated=bool(context.run_config["simulated"]),
        )
    except Exception as error:
        message = str(error) if isinstance(error, FedctError) else f"{type(error).__name__}: {error}"
        folder.event("end", outcome="failed", reason=message)
        raise
