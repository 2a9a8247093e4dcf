"""One question to the sites of a round, until each has answered, is given up, or time is over.

A message is sent again, once, when it is certain that its first sending is over:

1. Flower says that the site's task or the message is gone (``server.delivery.LOST``); or
2. the node was away, is back, and has answered a cheap question that was put *after* the message. A node does one
   message after another in the order in which they were sent, so what lies before the answered question and has no
   reply was lost with the node's memory. Until then it may still be at work, and a second sending would be charged
   to its patients twice.

Each sending is a charge at the site; so nothing is sent again in the second half of the time, when the answer would
likely come too late. Who is gone for ``GRACE_SECONDS`` is given up once enough others have answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from flwr.app import Message, MessageType, RecordDict

from server.delivery import Post, Presence, from_node, lost
from server.letters import Letter

SENDINGS = 2
GRACE_SECONDS = 300.0
POLL_SECONDS = 0.2
LONGEST_POLL = 2.0

Note = Callable[..., None]


@dataclass(frozen=True)
class Question:
    """What is asked. ``hello``: the cheap question of the same round. ``seconds``: until when an answer counts.

    ``letters``: makes the contents for some nodes, one at a time.
    """

    letters: Callable[[list[int]], Iterable[Letter]]
    hello: RecordDict
    kind: str
    round: int
    seconds: float


@dataclass
class _Pending:
    """A site that has not answered. ``name``: of its message, "" when that is lost; ``probe``: of the cheap question."""

    site: str
    since: str
    name: str = ""
    sendings: int = 0
    probe: str = ""
    gone: float | None = None


class Asking:
    """Asks ``sites`` (by node), which are in ``present``, and sends again what was lost.

    ``enough``: whether the round counts without those who are gone. ``meanwhile``: called with the connected nodes at
    each look. ``note``: takes an event and its details.
    """

    def __init__(
        self,
        post: Post,
        question: Question,
        sites: Mapping[int, str],
        present: Mapping[int, Presence],
        *,
        enough: Callable[[], bool],
        meanwhile: Callable[[Mapping[int, Presence]], None],
        note: Note,
    ) -> None:
        self._post, self._question, self._note = post, question, note
        self._enough, self._meanwhile = enough, meanwhile
        self._pending = {node: _Pending(site, present[node].since) for node, site in sites.items()}
        self._end = time.monotonic() + question.seconds
        self.failed: dict[int, str] = {}  # node -> why it is given up

    def replies(self) -> Iterator[tuple[int, Message]]:
        """(node, reply) as they come; afterwards ``failed`` and ``late`` hold who did not answer."""
        self._send(list(self._pending))
        pause = POLL_SECONDS
        while self._pending and time.monotonic() < self._end:
            present = self._post.connected()
            self._meanwhile(present)
            pause = min(LONGEST_POLL, pause * 1.1)
            for node in list(self._pending):
                reply = self._look(node, present.get(node))
                if reply is not None:
                    pause = POLL_SECONDS
                    yield node, reply
            if self._only_gone():
                break
            if self._pending:
                time.sleep(pause)
        for node in [node for node, pending in self._pending.items() if pending.gone is not None]:
            self._give_up(node, reason="offline")

    @property
    def late(self) -> dict[int, str]:
        """Who is connected and did not answer, by node: it may still be at work."""
        return {node: pending.site for node, pending in self._pending.items()}

    def _look(self, node: int, presence: Presence | None) -> Message | None:
        pending = self._pending[node]
        if presence is None:
            if pending.gone is None:
                pending.gone, pending.probe = time.monotonic(), ""
                self._note("gone", round=self._question.round, site=pending.site)
            return None
        if pending.gone is not None or presence.since != pending.since:
            self._welcome_back(node, pending, presence)
        passed = self._has_passed(pending)
        reply = self._post.take(pending.name) if pending.name else None
        if reply is not None and not lost(reply):
            del self._pending[node]
            return reply
        if reply is not None or passed or not pending.name:
            self._send_again(node, pending)
        return None

    def _welcome_back(self, node: int, pending: _Pending, presence: Presence) -> None:
        """Put the cheap question to a node that was away."""
        pending.gone, pending.since = None, presence.since
        self._note("back", round=self._question.round, site=pending.site)
        sent = self._post.send(
            {node: self._question.hello}, MessageType.QUERY, group="hello", seconds=self._seconds_left()
        )
        pending.probe = sent.get(node, "")

    def _has_passed(self, pending: _Pending) -> bool:
        """Whether the node has answered what was asked after its message: then it works on that no more."""
        answer = self._post.take(pending.probe) if pending.probe else None
        if answer is None:
            return False
        pending.probe = ""
        if not from_node(answer):
            pending.gone = time.monotonic()  # it went again before it answered: ask anew at the next look
            return False
        return True

    def _send_again(self, node: int, pending: _Pending) -> None:
        pending.name = ""
        if pending.sendings >= SENDINGS or self._seconds_left() < self._question.seconds / 2:
            self._give_up(node, reason="lost")
        else:
            self._send([node])

    def _send(self, nodes: list[int]) -> None:
        question = self._question
        names: dict[int, str] = {}
        for group, content in question.letters(nodes):
            names |= self._post.send(
                dict.fromkeys(group, content),
                question.kind,
                group=str(question.round),
                seconds=self._seconds_left(),
            )
            del content  # one content in memory at a time
        for node in nodes:
            pending = self._pending[node]
            pending.name, pending.probe, pending.sendings = names.get(node, ""), "", pending.sendings + 1
            self._note("asked", round=question.round, site=pending.site, what=question.kind, sending=pending.sendings)

    def _only_gone(self) -> bool:
        """Whether all that is missing is gone for long, and not needed."""
        oldest = time.monotonic() - GRACE_SECONDS
        gone = all(p.gone is not None and p.gone < oldest for p in self._pending.values())
        return gone and self._enough()

    def _give_up(self, node: int, reason: str) -> None:
        del self._pending[node]
        self.failed[node] = reason

    def _seconds_left(self) -> float:
        return max(1.0, self._end - time.monotonic())
