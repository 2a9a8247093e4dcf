"""The rounds of a study: gather, ask, collect, aggregate.

Participation rule: every site that is connected and has said that it is ready is asked at the beginning of a round,
but for those that may still be at work on an old one. A round counts when at least ``minimum_sites`` updates arrive
before the deadline, and fails the run otherwise. A message that was lost is sent again once (``server.asking``); a
site that comes in the middle of a round is asked in the next. Updates are taken one at a time and given to the strategy
(``server.aggregation``), which folds them in or writes them to disk, so memory does not grow with sites. A reply for
another round, study or site is dropped and named.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from numpy.typing import NDArray
from torch import nn

from common.errors import FedctError, QuorumError, RunError
from common.messages import Reply
from common.metrics import Counts
from common.models import parts
from common.study import Study
from server.aggregation import Aggregate, State, Vector, begin
from server.asking import POLL_SECONDS, Asking, Question
from server.contribution import Sketches, Watched
from server.delivery import Post, Presence
from server.letters import Letters
from server.replies import config_of, update_of, what_is_wrong
from server.results import Contribution, Participation
from server.roster import HELLO_SECONDS, Roster
from server.run_folder import RunFolder

RETURN_SECONDS = 60.0  # how long a resumed run waits for the sites that it had


@dataclass
class Outcome:
    """What one round (or the final evaluation) brought."""

    participation: list[Participation] = field(default_factory=list)
    counts: dict[str, Counts] = field(default_factory=dict)
    counts_std: dict[str, float] = field(default_factory=dict)
    subgroups: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    modes: dict[str, str] = field(default_factory=dict)
    epsilon: dict[str, float] = field(default_factory=dict)
    contributions: dict[str, Contribution] = field(default_factory=dict)
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        """How many sites took part."""
        return sum(p.status == "ok" for p in self.participation)

    @property
    def reasons(self) -> str:
        """Who did not take part, and why, in one line."""
        return ", ".join(f"{p.site} {p.status} ({p.reason})" for p in self.participation if p.status != "ok")

    def pooled(self) -> tuple[Counts | None, float]:
        """Counts of all sites together, and the standard deviation of their noise."""
        if not self.counts:
            return None, 0.0
        first, *others = self.counts.values()
        total = sum(others, start=first)
        return total, math.sqrt(sum(std**2 for std in self.counts_std.values()))


class Rounds:
    """Runs the rounds of one study over a Flower grid; ``model`` holds the global weights.

    ``state``: what the strategy carries from round to round. ``expected``: sites of an earlier attempt at this run.
    ``admitted``: nodes bear the names of the registry.
    """

    def __init__(
        self,
        grid: Grid,
        study: Study,
        model: nn.Module,
        folder: RunFolder,
        seed: int,
        *,
        admitted: bool = False,
        state: State | None = None,
        expected: Iterable[str] = (),
    ) -> None:
        self._study, self._model, self._folder = study, model, folder
        self._letters = Letters(study, model, seed)
        self._post = Post(grid, admitted=admitted)
        self._roster = Roster(self._post, folder.event, expected)
        self._state: State = state or {}
        self._gathered = False
        self._present: dict[int, Presence] = {}  # when the round was found to have enough sites

    @property
    def names(self) -> list[str]:
        """Every site that was ever met, sorted."""
        return self._roster.names

    @property
    def state(self) -> State:
        """What the strategy carries to the next round."""
        return self._state

    def gather(self, round_: int) -> None:
        """Wait until enough sites are ready for a round. Raises QuorumError when they are not by the deadline.

        The first time all connected sites are asked, and waited for; later ones are asked as they come.
        """
        started, minimum = time.monotonic(), self._study.federation.minimum_sites
        while True:
            present = self._post.connected()
            self._roster.look(present, self._letters.question(round_))
            ready, seconds = self._roster.ready(present), time.monotonic() - started
            if seconds > self._deadline or self._is_gathered(present, len(ready), seconds):
                break
            time.sleep(POLL_SECONDS)
        self._gathered, self._present = True, present
        if len(ready) < minimum:
            unready = self._roster.not_asked(present)
            reasons = ", ".join(f"{p.site} ({p.reason})" for p in unready) or "no other site"
            raise QuorumError(
                f"{len(ready)} sites are ready; federation.minimum_sites is {minimum}. Not ready: {reasons}",
                "See each site's audit.log for the cause",
            )

    def train(self, round_: int) -> Outcome:
        """One round: the global model moves by the strategy's step. Raises QuorumError below the minimum."""
        length = parts.size(parts.shared(self._model, self._study))
        sites = len(self._roster.names)
        sketches = Sketches(length, self._study.federation.weights)
        begun = begin(self._study, round_, length, sites, self._state, self._folder.inner)
        with closing(Watched(begun, sketches)) as aggregate:
            outcome = self._ask(MessageType.TRAIN, round_, aggregate)
            if outcome.answered < self._study.federation.minimum_sites:
                raise QuorumError(
                    f"round {round_}: {outcome.answered} updates arrived; federation.minimum_sites is "
                    f"{self._study.federation.minimum_sites}. {outcome.reasons}",
                    "See each site's audit.log for the cause",
                )
            self._apply(aggregate)
        outcome.contributions = sketches.contributions()
        return outcome

    def evaluate(self, round_: int) -> Outcome:
        """Ask every site for counts of the present global model."""
        return self._ask(MessageType.EVALUATE, round_, None)

    @property
    def _deadline(self) -> float:
        return self._study.federation.deadline_minutes * 60

    def _is_gathered(self, present: Mapping[int, Presence], ready: int, seconds: float) -> bool:
        minimum = self._study.federation.minimum_sites
        if self._gathered:
            return ready >= minimum or not self._roster.may_come(present)
        if seconds < RETURN_SECONDS and len(present) < self._roster.expected:
            return False
        return len(present) >= minimum and (not self._roster.answering(present) or seconds > HELLO_SECONDS)

    def _apply(self, aggregate: Aggregate) -> None:
        step, self._state = aggregate.step()
        if not parts.add(parts.shared(self._model, self._study), step):
            raise RunError("the global model is no longer finite", "Lower the learning rate")

    def _ask(self, kind: str, round_: int, aggregate: Aggregate | None) -> Outcome:
        started, outcome = time.monotonic(), Outcome()
        present, self._present = self._present or self._post.connected(), {}
        hello = self._letters.question(round_)
        sites = self._roster.ready(present)
        outcome.participation += self._roster.not_asked(present)
        corrected = aggregate.correction if aggregate and self._study.federation.strategy == "scaffold" else None
        self._letters.bytes = 0
        asking = Asking(
            self._post,
            Question(
                lambda nodes: self._letters.with_model(round_, {node: sites[node] for node in nodes}, corrected),
                hello,
                kind,
                round_,
                self._deadline,
            ),
            sites,
            present,
            enough=lambda: outcome.answered >= self._study.federation.minimum_sites,
            meanwhile=partial(self._roster.look, hello=hello),
            note=self._folder.event,
        )
        for node, message in asking.replies():
            part = self._take(sites[node], message, round_, aggregate, outcome, time.monotonic() - started)
            del message  # one update in memory at a time
            self._letters.arrived(node, part.reason)
            self._enter(part, round_, outcome)
        for node, reason in asking.failed.items():
            self._enter(Participation(site=sites[node], status="failed", reason=reason), round_, outcome)
        for site in asking.late.values():
            self._enter(Participation(site=site, status="late", reason="deadline"), round_, outcome)
        self._roster.late([*asking.late, *(node for node, reason in asking.failed.items() if reason == "offline")])
        outcome.participation.sort(key=lambda p: p.site)
        outcome.bytes_down = self._letters.bytes
        outcome.seconds = time.monotonic() - started
        return outcome

    def _enter(self, part: Participation, round_: int, outcome: Outcome) -> None:
        outcome.participation.append(part)
        self._folder.event("reply", round=round_, **part.model_dump(mode="json"))

    def _take(
        self, site: str, message: Message, round_: int, aggregate: Aggregate | None, outcome: Outcome, seconds: float
    ) -> Participation:
        """Check one reply and fold it in; whatever is wrong with it becomes a status and a code."""
        if message.has_error():
            return Participation(site=site, status="failed", reason=f"flower-{message.error.code}", seconds=seconds)
        try:
            reply = Reply.from_config(config_of(message))
            if wrong := what_is_wrong(reply, site, self._study, round_):
                return Participation(site=site, status="failed", reason=wrong, seconds=seconds)
            if reply.status == "ok":
                counts, subgroups = reply.parse_counts(self._study), reply.parse_subgroups(self._study)
                if aggregate is not None:
                    length = parts.size(parts.shared(self._model, self._study))
                    update, size = update_of(message, reply.exponent, self._study.federation.wire, length)
                    if not self._short_enough(update):
                        return Participation(site=site, status="failed", reason="update-too-large", seconds=seconds)
                    aggregate.add(site, update)
                    outcome.bytes_up += size
                if counts is not None:
                    outcome.counts[site], outcome.counts_std[site] = counts, reply.counts_std
                    outcome.subgroups[site] = subgroups
                outcome.modes[site], outcome.epsilon[site] = reply.evaluation, reply.epsilon
        except (FedctError, ValueError, KeyError, TypeError):
            return Participation(site=site, status="failed", reason="bad-reply", seconds=seconds)
        return Participation(site=site, status=reply.status, reason=reply.code, seconds=seconds)

    def _short_enough(self, update: Vector) -> bool:
        longest = self._study.federation.update_norm
        return longest is None or float(np.linalg.norm(update)) <= longest
