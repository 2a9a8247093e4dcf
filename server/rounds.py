"""The rounds of a study: ask, collect, aggregate, checkpoint.

Participation rule: every connected site that says it is ready is asked in every round; a round
counts when at least ``minimum_sites`` updates arrive before the deadline, and fails the run
otherwise. Updates are folded into a running mean as they come, so memory does not grow with sites.
A reply for another round or study is dropped and named.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from torch import nn

from common import messages
from common.errors import FedctError, QuorumError, RunError
from common.messages import Hello, Reply, Request
from common.metrics import Counts
from common.models.weights import Vector, load_vector, save_weights, to_vector
from common.study import Study
from server.aggregation import STRATEGIES, RunningMean, State
from server.delivery import deliver, wait_for_nodes
from server.results import Participation
from server.run_folder import RunFolder

HELLO_SECONDS = 600.0


@dataclass
class Outcome:
    """What one round (or the final evaluation) brought."""

    participation: list[Participation] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    counts_std: dict[str, float] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        """How many sites took part."""
        return sum(p.status == "ok" for p in self.participation)

    def pooled(self) -> tuple[Counts | None, float]:
        """Counts of all sites together, and the standard deviation of their noise."""
        if not self.counts:
            return None, 0.0
        first, *others = self.counts.values()
        total = sum(others, start=first)
        return total, math.sqrt(sum(std**2 for std in self.counts_std.values()))


class Rounds:
    """Runs the rounds of one study over a Flower grid; ``model`` holds the global weights."""

    def __init__(self, grid: Grid, study: Study, model: nn.Module, folder: RunFolder, seed: int) -> None:
        self._grid, self._study, self._model, self._folder, self._seed = grid, study, model, folder, seed
        self._sites: dict[int, str] = {}  # node -> site
        self._unready: dict[str, str] = {}  # site -> code
        self._state: State = {}

    def gather(self) -> list[str]:
        """Learn which sites are there. Raises QuorumError when fewer than the minimum are ready."""
        minimum = self._study.federation.minimum_sites
        nodes = wait_for_nodes(self._grid, minimum, self._deadline)
        request = self._request(1)
        seconds = min(self._deadline, HELLO_SECONDS)
        for node, message in deliver(
            self._grid, dict.fromkeys(nodes, request), MessageType.QUERY, group="hello", seconds=seconds
        ):
            self._welcome(node, message)
        self._folder.event("sites", ready=sorted(self._sites.values()), not_ready=self._unready)
        if len(self._sites) < minimum:
            reasons = ", ".join(f"{site} ({code})" for site, code in sorted(self._unready.items())) or "no other site"
            raise QuorumError(
                f"{len(self._sites)} sites are ready; federation.minimum_sites is {minimum}. Not ready: {reasons}",
                "See each site's audit.log for the cause",
            )
        return sorted([*self._sites.values(), *self._unready])

    def train(self, round_: int) -> Outcome:
        """One round: the global model moves by the strategy's step. Raises QuorumError below the minimum."""
        mean = RunningMean(to_vector(self._model, trainable_only=True).size)
        outcome = self._ask(MessageType.TRAIN, round_, mean)
        if outcome.answered < self._study.federation.minimum_sites:
            reasons = ", ".join(f"{p.site} {p.status} ({p.reason})" for p in outcome.participation if p.status != "ok")
            raise QuorumError(
                f"round {round_}: {outcome.answered} updates arrived; federation.minimum_sites is "
                f"{self._study.federation.minimum_sites}. {reasons}",
                "See each site's audit.log for the cause",
            )
        self._apply(mean.mean())
        return outcome

    def evaluate(self, round_: int) -> Outcome:
        """Ask every site for counts of the present global model."""
        return self._ask(MessageType.EVALUATE, round_, None)

    @property
    def _deadline(self) -> float:
        return self._study.federation.deadline_minutes * 60

    def _apply(self, update: Vector) -> None:
        strategy = STRATEGIES[self._study.federation.strategy]
        step, self._state = strategy(update, self._state, self._study.federation.server_learning_rate)
        weights = to_vector(self._model, trainable_only=True) + step
        if not np.isfinite(weights).all():
            raise RunError("the global model is no longer finite", "Lower the learning rate")
        load_vector(self._model, weights, trainable_only=True)
        save_weights(self._folder.checkpoint_file, self._model, {"study": self._study.digest})

    def _ask(self, kind: str, round_: int, mean: RunningMean | None) -> Outcome:
        started = time.monotonic()
        weights = to_vector(self._model)
        content = self._request(round_)
        content[messages.MODEL] = ArrayRecord({messages.ARRAY: Array(weights)})
        outcome = Outcome(bytes_down=weights.nbytes * len(self._sites))
        outcome.participation += [Participation(site=s, status="refused", reason=c) for s, c in self._unready.items()]
        missing = dict(self._sites)
        replies = deliver(
            self._grid, dict.fromkeys(self._sites, content), kind, group=str(round_), seconds=self._deadline
        )
        for node, message in replies:
            part = self._take(missing.pop(node), message, round_, mean, outcome, time.monotonic() - started)
            outcome.participation.append(part)
            self._folder.event("reply", round=round_, site=part.site, status=part.status, reason=part.reason)
        outcome.participation += [
            Participation(site=site, status="late", reason="deadline") for site in missing.values()
        ]
        outcome.participation.sort(key=lambda p: p.site)
        outcome.seconds = time.monotonic() - started
        return outcome

    def _take(
        self, site: str, message: Message, round_: int, mean: RunningMean | None, outcome: Outcome, seconds: float
    ) -> Participation:
        """Check one reply and fold it in; whatever is wrong with it becomes a status and a code."""
        if message.has_error():
            return Participation(site=site, status="failed", reason=f"flower-{message.error.code}", seconds=seconds)
        try:
            reply = Reply.from_config(dict(_config(message)))
            if (reply.site, reply.study_digest, reply.round) != (site, self._study.digest, round_):
                return Participation(site=site, status="failed", reason="wrong-reply", seconds=seconds)
            if reply.status == "ok":
                counts = reply.parse_counts(self._study)
                if mean is not None:
                    update = _update(message)
                    mean.add(update)
                    outcome.bytes_up += update.nbytes
                if counts is not None:
                    outcome.counts[site], outcome.counts_std[site] = counts, reply.counts_std
                outcome.modes[site], outcome.epsilon[site] = reply.evaluation, reply.epsilon
        except (FedctError, ValueError, KeyError, TypeError):
            return Participation(site=site, status="failed", reason="bad-reply", seconds=seconds)
        return Participation(site=site, status=reply.status, reason=reply.code, seconds=seconds)

    def _request(self, round_: int) -> RecordDict:
        request = Request(study=self._study.canonical_json(), round=round_, seed=self._seed)
        return RecordDict({messages.CONFIG: ConfigRecord(request.to_config())})

    def _welcome(self, node: int, message: Message) -> None:
        """Enter a site on the roster; a name that another node holds already is not taken twice."""
        try:
            if message.has_error():
                raise RunError("node error")
            hello = Hello.from_config(dict(_config(message)))
        except (FedctError, KeyError, TypeError):
            self._unready[f"node-{node}"] = "bad-hello"
            return
        if hello.site in _names(self._sites.values(), self._unready):
            self._unready[f"node-{node}"] = "name-taken"
        elif hello.ready:
            self._sites[node] = hello.site
        else:
            self._unready[hello.site] = hello.code


def _names(*groups: Iterable[str]) -> set[str]:
    return {name for group in groups for name in group}


def _config(message: Message) -> ConfigRecord:
    record = message.content[messages.CONFIG]
    if not isinstance(record, ConfigRecord):
        raise TypeError("not a ConfigRecord")
    return record


def _update(message: Message) -> Vector:
    record = message.content[messages.UPDATE]
    if not isinstance(record, ArrayRecord):
        raise TypeError("not an ArrayRecord")
    return record[messages.ARRAY].numpy()
