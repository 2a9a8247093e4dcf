"""The time of a round with trivial training, over the floor of moving its bytes through TLS once down and once up.

A deployed consortium on this machine (``simulations.benchmarks.consortium``) trains one step of one small image at each
site, without privacy, so that nearly all of a round is the carrying of the model. A round's time runs from one
checkpoint to the next, so everything is in it. The floor (``simulations.benchmarks.floor``) is taken in the same run,
before and after.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from common.models.size import later_message_bytes
from common.study import Study, parse_study
from server.launch import Launched
from simulations.benchmarks.consortium import Deployed, deployed
from simulations.benchmarks.floor import Floor, measure_floor
from simulations.phantom.hospitals import write_hospitals

PATIENTS_A_SITE = 8
FLOORS = 3
POLL_SECONDS = 0.05
# whose processor time it is, by a word of the command line; what a task used is counted with what started it
PARTS = {
    "run": "flwr-serverapp",
    "SuperLink": "server.superlink",
    "nodes": "client.supernode",
    "runners": "client.runner",
    "tasks": "multiprocessing.forkserver",
}
OTHERS = "daemons"


def study_of(arch: str, sites: int, rounds: int) -> Study:
    """A study over phantoms that trains all of ``arch``, as little as there is."""
    return parse_study(
        {
            "format": 1,
            "name": "round-cost",
            "task": {"classes": ["compression", "burst", "normal"]},
            "input": {
                "windows": [{"low": -200, "high": 800}],
                "view": "sagittal",
                "spacing_mm": 5.0,
                "slice_spacing_mm": 5.0,
                "planes": 1,
                "size": 32,
            },
            "model": {"name": arch},
            "training": {"learning_rate": 1e-6, "local_steps": 1, "batch_patients": 1, "augment": False},
            "privacy": {"unit": "off"},
            "federation": {"rounds": rounds, "minimum_sites": sites, "deadline_minutes": 60.0},
            "evaluation": {"holdout": 0.4, "every": rounds},
        }
    )


def measure(arch: str, sites: int, rounds: int) -> dict[str, Any]:
    """Rounds 2 to ``rounds`` of ``arch`` at ``sites`` sites; seconds, and what they were spent on."""
    study = study_of(arch, sites, rounds + 1)  # evaluated after round 1, and not in those that are timed
    with tempfile.TemporaryDirectory(prefix="cost-") as name:
        folder = Path(name)
        hospitals = write_hospitals(
            folder / "phantom", patients=PATIENTS_A_SITE * sites, counts=None, sites=sites, seed=0
        )
        (folder / "run").mkdir()
        with deployed(folder / "run", study, hospitals) as consortium:
            coordinator, message = consortium.coordinator, later_message_bytes(study)

            def floors() -> list[Floor]:
                tls = (coordinator.server_file, coordinator.server_key_file, coordinator.authority_file)
                return [measure_floor(*tls, peers=sites, message=message) for _ in range(FLOORS)]

            before = floors()
            launched = consortium.launch(study)
            found = _rounds(consortium, launched, rounds)
            consortium.until(lambda: bool(_events(launched, "end")))  # the machine is the floor's alone
            floor = before + floors()
    seconds = statistics.median(one["seconds"] for one in found)
    processor = statistics.median(sum(one["processor_seconds"].values()) for one in found)
    floor_seconds = statistics.median(one.seconds for one in floor)
    floor_processor = statistics.median(one.processor_seconds for one in floor)
    return {
        "arch": arch,
        "sites": sites,
        "message_mb": message / 1e6,
        "floor_seconds": floor_seconds,
        "floor_processor_seconds": floor_processor,
        "round_seconds": seconds,
        "round_processor_seconds": processor,
        "over_floor": seconds / floor_seconds,
        "over_floor_processor": processor / floor_processor,
        "cores": os.cpu_count(),
        "rounds": found,
    }


def _rounds(consortium: Deployed, launched: Launched, last: int) -> list[dict[str, Any]]:
    """What each of the rounds 2 to ``last`` took, as they end."""
    used: list[dict[str, float]] = []
    while len(used) < last:
        consortium.until(lambda: len(_events(launched, "round")) > len(used))
        used.append(_processor_seconds(consortium.processes))
    return [
        _of_round(launched, round_)
        | {"processor_seconds": {part: used[round_ - 1][part] - used[round_ - 2].get(part, 0.0) for part in used[0]}}
        for round_ in range(2, last + 1)
    ]


def _of_round(launched: Launched, round_: int) -> dict[str, Any]:
    """When the model was sent, the first and the last update came, and the checkpoint was durable; in seconds."""
    start, end = (_time(event) for event in _events(launched, "round")[round_ - 2 : round_])
    sent = max(_time(event) for event in _events(launched, "asked") if event["round"] == round_)
    came = [_time(event) for event in _events(launched, "reply") if event["round"] == round_]
    return {
        "seconds": end - start,
        "sent": sent - start,
        "first_update": min(came) - sent,
        "other_updates": max(came) - min(came),
        "checkpoint": end - max(came),
    }


def _events(launched: Launched, kind: str) -> list[dict[str, Any]]:
    return [event for event in launched.folder.events()[0] if event["event"] == kind]


def _time(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def _processor_seconds(daemons: Iterable[psutil.Process]) -> dict[str, float]:
    """Processor time so far, by part of the consortium."""
    found = dict.fromkeys((*PARTS, OTHERS), 0.0)
    for daemon in daemons:
        for process in (daemon, *daemon.children(recursive=True)):
            try:
                line, times = " ".join(process.cmdline()), process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            part = next((part for part, word in PARTS.items() if word in line), OTHERS)
            found[part] += times.user + times.system
            if part == "tasks":
                found[part] += times.children_user + times.children_system
    return found
