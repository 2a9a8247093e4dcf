"""Run a study over a folder of simulated hospitals: ingest, approve, rounds, comparisons, report."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from client.ingest.build import ingest
from client.site import Site, load_sites
from common.console import say, stage
from common.errors import DataError, PolicyRefusal, QuorumError, RunError, StorageError, UsageError
from common.study import Study
from server.results import Results, read_results
from server.run import publish
from server.run_folder import RunFolder
from simulations.comparison import Compared, compare
from simulations.flower import Runtime, launch, superlink

KINDS = ("local", "central")
POLL_SECONDS = 0.2
SILENT_SECONDS = 30.0  # a busy machine takes long to start a process
RUN_PROCESS = "flwr-simulation"
FULL_BYTES = 1 << 20


def run_federation(
    study: Study, sites_root: Path, out: Path, *, base: Path, seed: int = 0, kinds: Sequence[str] = ()
) -> Results:
    """Run ``study`` on the site folders under ``sites_root``; results, report and model go to ``out``.

    ``base``: where a relative ``model.initial`` starts. ``kinds``: comparisons to add, of ``local`` and
    ``central``. Cohorts that were ingested before are used again. Raises FedctError; whatever was running has ended by then.
    """
    check_kinds(kinds)
    sites = simulated_sites(sites_root)
    check_quorum(study, sites_root, sites)
    ingest_all(sites, study)
    folder = RunFolder(out)
    results = federate(study, sites_root, sites, folder, base, seed)
    return add_comparisons(results, study, sites, kinds, folder)[0] if kinds else results


def check_kinds(kinds: Sequence[str]) -> None:
    """Raise UsageError unless all are known comparisons."""
    for kind in kinds:
        if kind not in KINDS:
            raise UsageError(f"--compare '{kind}' is unknown; expected some of {','.join(KINDS)}")


def check_quorum(study: Study, root: Path, sites: Sequence[Site]) -> None:
    """Raise QuorumError if there are fewer sites than the study asks for."""
    if len(sites) < study.federation.minimum_sites:
        raise QuorumError(
            f"'{root}' holds {len(sites)} sites; federation.minimum_sites is {study.federation.minimum_sites}",
            "Deal the data to more sites or lower the minimum",
        )


def federate(study: Study, root: Path, sites: Sequence[Site], folder: RunFolder, base: Path, seed: int) -> Results:
    """All rounds of ``study`` at the sites under ``root``, which have their cohorts, and the final evaluation."""
    for site in sites:
        site.approve(study)
    folder.prepare(study, base)
    _simulate(study, root, sites, folder, seed)
    return read_results(folder.results_file)


def add_comparisons(
    results: Results, study: Study, sites: Sequence[Site], kinds: Sequence[str], folder: RunFolder
) -> tuple[Results, Compared]:
    """The results with comparisons of these ``kinds``, published, and what the compared models said."""
    with stage(f"Comparing with {' and '.join(kinds)} training") as progress:
        found = compare(study, sites, kinds, results.seed, folder.initial_file, progress)
    results = results.model_copy(update={"comparisons": results.comparisons | found.comparisons})
    publish(results, folder)
    return results, found


def simulated_sites(root: Path) -> list[Site]:
    """The sites under ``root``. A real hospital's folder is refused: only its own daemon may use it."""
    sites = load_sites(root)
    for site in sites:
        if not site.config.simulated:
            raise PolicyRefusal(
                f"'{site.folder}' is the folder of a deployed site (site.toml: simulated = false)",
                "fedct-sim runs on folders made by 'fedct-sim phantom' or 'fedct-sim split' only",
            )
    return sites


def ingest_all(sites: Sequence[Site], study: Study) -> None:
    """Each site's DICOM becomes its cohort; what was done before is not done again."""
    for site in sites:
        with stage(f"Ingesting {site.name}") as progress:
            report = ingest(site, study, progress)
        say(
            f"  {site.name}: {report.patients} patients, {report.examples} examples"
            + (" (unchanged since the last ingest)" if report.reused else f" in {report.seconds:.0f} s")
        )
        if report.patients == 0:
            raise DataError(f"site '{site.name}' has no patient for this study")


def _simulate(study: Study, root: Path, sites: Sequence[Site], folder: RunFolder, seed: int) -> None:
    workers = min(os.cpu_count() or 1, len(sites))
    with stage("Starting Flower's simulation runtime") as progress, superlink(root, folder) as runtime:
        launch(runtime, study, seed, len(sites), workers)
        progress(1, 1)
        _follow(study, folder, runtime)


def _follow(study: Study, folder: RunFolder, runtime: Runtime) -> None:
    """Show rounds as they come; RunError when the run failed or its process vanished."""
    total, position = study.federation.rounds, 0
    seen = time.monotonic()
    with stage(f"Federated rounds of '{study.name}'") as progress:
        while True:
            lines, position = _new_lines(folder.events_file, position)
            for event in lines:
                if event["event"] == "round":
                    accuracy = event["accuracy"]
                    note = "" if accuracy is None else f"accuracy {accuracy:.3f} after round {event['model_round']}"
                    progress(event["round"], total, note)
                elif event["event"] in ("end", "interrupted"):
                    if event.get("outcome") != "finished":
                        kind = StorageError if event.get("code") == StorageError.code else RunError
                        raise kind(event["reason"].rstrip("."), f"Details: '{folder.root}' and '{runtime.log}'")
                    return
            if lines or _working(runtime):
                seen = time.monotonic()
            elif time.monotonic() - seen > SILENT_SECONDS:
                if shutil.disk_usage(folder.root).free < FULL_BYTES:
                    raise StorageError(f"no space left in '{folder.root}'", "Free some space and run again")
                raise RunError("Flower's simulation ended without a result", f"See '{runtime.log}'")
            time.sleep(POLL_SECONDS)


def _working(runtime: Runtime) -> bool:
    """Whether the SuperLink and the process of its run are alive; Flower's executor, between them, outlives the run."""
    with contextlib.suppress(psutil.NoSuchProcess):
        if runtime.process.poll() is None:
            family = psutil.Process(runtime.process.pid).children(recursive=True)
            return any(RUN_PROCESS in Path(word).name for one in family for word in one.cmdline()[:2])
    return False


def _new_lines(path: Path, position: int) -> tuple[list[dict[str, Any]], int]:
    """Complete JSON lines after ``position``, and the position after them."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read()
    except FileNotFoundError:
        return [], position
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines()], position + end
