"""Peak memory of the coordinator's process in a round, by number of sites and strategy; beside Flower's own FedAvg.

Each figure is from a fresh process that does what a ServerApp does, in its second round, when a strategy has its state:
the base is the resident memory with the model built, the sites met and that state in it; the peak is the largest from
the sending of the model until the checkpoint is written. Their difference is divided by the size of a message. Flower's
FedAvg has no state, and is measured in its first round.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MessageType, MetricRecord, RecordDict

from common import messages
from common.messages import Hello, Reply
from common.models.size import later_message_bytes, shared_count
from common.study import Study, parse_study, study_from_json
from common.wire import pack
from simulations.benchmarks.link import Link, grid

FLOWER = "flwr FedAvg"


SETTINGS: dict[str, dict[str, Any]] = {
    "fedprox": {"proximal_mu": 0.01},
    "trimmed-mean": {"trim": 0.2},
    "multi-krum": {"liars": 1},
}
"""What a strategy needs beside its name."""
MEASURED = 2  # the round


def measure(study: Study, sites: list[int], *, flower: bool, strategy: str = "") -> list[dict[str, Any]]:
    """The figures of a round of ``study`` with each number of sites; with ``flower``, of Flower's FedAvg instead.

    ``strategy``: in place of the study's. All weights travel, and start from random ones: memory depends on neither,
    and nothing is downloaded. Raises StudyError for a strategy that is unknown.
    """
    if strategy:
        federation = {
            "rounds": MEASURED,
            "strategy": strategy,
            **SETTINGS.get(strategy, {}),
            "minimum_sites": min(sites),
        }
        study = parse_study({**study.model_dump(mode="json", exclude_none=True), "federation": federation})
    model = study.model.model_copy(update={"initial": "none", "initial_sha256": "", "trainable": "all"})
    study = study.model_copy(update={"model": model}).without_privacy()
    return [_round(study, count, FLOWER if flower else study.federation.strategy) for count in sites]


def _round(study: Study, sites: int, strategy: str) -> dict[str, Any]:
    federation = study.federation.model_copy(update={"minimum_sites": sites})
    study = study.model_copy(update={"federation": federation})
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    results, sender = context.Pipe(duplex=False)
    work = _flower if strategy == FLOWER else _fedct
    process = context.Process(target=_coordinate, args=(work, theirs, sender, study.canonical_json(), sites))
    process.start()
    theirs.close()
    sender.close()
    Link(sites, _Answers(study, flower=strategy == FLOWER)).serve(ours)
    base, peak = results.recv()
    process.join()
    message = later_message_bytes(study)
    return {
        "strategy": strategy,
        "sites": sites,
        "message_mb": message / 1e6,
        "base_mb": base / 1e6,
        "peak_mb": peak / 1e6,
        "messages_above_base": (peak - base) / message,
    }


class _Answers:
    """What the sites say: one update for all."""

    def __init__(self, study: Study, *, flower: bool) -> None:
        self._study, self._flower = study, flower
        update = np.random.default_rng(0).normal(0, 1e-3, shared_count(study)).astype(np.float32)
        array, self._exponent = pack(update, study.federation.wire)
        self._update = ArrayRecord({messages.ARRAY: Array(array)})

    def __call__(self, node: int, kind: str, group: str) -> RecordDict:
        if self._flower:
            return RecordDict({"arrays": self._update, "metrics": MetricRecord({"num-examples": 1})})
        site = f"site-{node}"
        if kind == MessageType.QUERY:
            return _content(Hello(site=site, release="0", ready=True))
        reply = Reply(
            site=site, study_digest=self._study.digest, round=int(group), status="ok", exponent=self._exponent
        )
        content = _content(reply)
        content[messages.UPDATE] = self._update
        return content


def _content(answer: Hello | Reply) -> RecordDict:
    return RecordDict({messages.CONFIG: ConfigRecord(answer.to_config())})


def _coordinate(work: Any, pipe: Connection, results: Connection, study: str, sites: int) -> None:
    results.send(work(pipe, study_from_json(study), sites))


def _fedct(pipe: Connection, study: Study, _: int) -> tuple[int, int]:
    from common.models.weights import initial_model, to_vector
    from server import checkpoints
    from server.arrays import spare_memory
    from server.results import RoundRecord
    from server.rounds import Rounds
    from server.run_folder import RunFolder

    spare_memory()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder(Path(folder))
        run.prepare(study, Path(folder))
        model = initial_model(study, 0)
        rounds = Rounds(grid(pipe), study, model, run, 0)
        for number in range(1, MEASURED):
            rounds.gather(number)
            rounds.train(number)
        rounds.gather(MEASURED)
        with _memory() as found:
            parts = tuple(rounds.train(MEASURED).participation)
            record = RoundRecord(round=1, seconds=0, bytes_down=0, bytes_up=0, participation=parts)
            now, weights = datetime.now(UTC), to_vector(model)
            state = checkpoints.Checkpoint(study.digest, 0, now, 1, weights, rounds.state, records=(record,))
            checkpoints.save(run.inner, state)
    return found[0], found[1]


def _flower(pipe: Connection, study: Study, sites: int) -> tuple[int, int]:
    from flwr.serverapp.strategy import FedAvg

    logging.getLogger("flwr").setLevel(logging.ERROR)
    start = ArrayRecord({messages.ARRAY: Array(np.zeros(shared_count(study), dtype=np.float32))})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    with _memory() as found:
        strategy.start(grid(pipe), start, num_rounds=1)
    return found[0], found[1]


@contextmanager
def _memory() -> Iterator[list[int]]:
    """Resident memory of the process now, and at the end its largest since, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    found = [_status("VmRSS")]
    yield found
    found.append(_status("VmHWM"))


def _status(name: str) -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) * 1024
