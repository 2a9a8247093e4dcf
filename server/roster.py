"""Which node is which site, and which of them would take part: asked cheaply, again when it may have changed.

Nodes say who they are in their answer to a hello. Where they were admitted (a deployment), that must be the name in
the registry; a node that says another's is ``wrong-site`` and never asked for an update. In a simulation there is no
registry, and the first node of a name has it.

A hello goes to nodes that are not known, to those that were not ready when they were asked ``AGAIN_SECONDS`` ago,
and to those that were late: they are *busy*, perhaps still at work on an old round, until they answer it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from flwr.app import Message, MessageType, RecordDict

from common.errors import FedctError, RunError
from common.messages import Hello
from server.asking import Note
from server.delivery import Post, Presence, from_node
from server.replies import NAMELESS, config_of
from server.results import Participation

HELLO_SECONDS = 600.0
AGAIN_SECONDS = 60.0


class Roster:
    """The nodes that were ever met in this run, and how they stand. ``expected``: sites of an earlier attempt at it."""

    def __init__(self, post: Post, note: Note, expected: Iterable[str] = ()) -> None:
        self._post, self._note = post, note
        self._expected = set(expected)
        self._sites: dict[int, str] = {}  # nodes that are ready, or were when they were asked
        self._busy: set[int] = set()
        self._unready: dict[int, tuple[str, str]] = {}  # node -> site, code
        self._hellos: dict[int, str] = {}  # node -> message
        self._asked: dict[int, float] = {}  # node -> when

    @property
    def names(self) -> list[str]:
        """Every site that was ever met, sorted."""
        return sorted({*self._sites.values(), *(site for site, _ in self._unready.values()), *self._expected})

    @property
    def expected(self) -> int:
        """How many sites there were in an earlier attempt at this run."""
        return len(self._expected)

    def look(self, present: Mapping[int, Presence], hello: RecordDict) -> None:
        """Take the answers to hellos, and send those that are due. ``hello``: what to ask."""
        self._hellos = {node: name for node, name in self._hellos.items() if node in present}  # else asked when back
        for node in list(self._hellos):
            answer = self._post.take(self._hellos[node])
            if answer is not None:
                del self._hellos[node]
                self._enter(node, present[node].name, answer)
        due = [node for node in present if self._is_due(node)]
        sent = self._post.send(dict.fromkeys(due, hello), MessageType.QUERY, group="hello", seconds=HELLO_SECONDS)
        self._hellos |= sent
        self._asked |= dict.fromkeys(sent, time.monotonic())

    def ready(self, present: Iterable[int]) -> dict[int, str]:
        """The nodes that can be asked now, with their sites."""
        return {node: self._sites[node] for node in present if node in self._sites and node not in self._busy}

    def answering(self, present: Iterable[int]) -> bool:
        """Whether a node that is there has yet to answer a hello."""
        return any(node in self._hellos for node in present)

    def may_come(self, present: Iterable[int]) -> bool:
        """Whether a site may become ready without anybody's doing: it is away, busy, or about to answer."""
        here = set(present)
        away = any(node not in here for node in self._sites) or bool(self._unmet())
        return away or bool(self._busy) or self.answering(here)

    def late(self, nodes: Iterable[int]) -> None:
        """These may still be at work: they are not asked again before they have answered a hello."""
        self._busy.update(nodes)

    def not_asked(self, present: Iterable[int]) -> list[Participation]:
        """Who is not asked now, and why."""
        here = set(present)
        found = [Participation(site=site, status="refused", reason=code) for site, code in self._unready.values()]
        for node, site in self._sites.items():
            if node not in here:
                found.append(Participation(site=site, status="failed", reason="offline"))
            elif node in self._busy:
                found.append(Participation(site=site, status="late", reason="busy"))
        return found + [Participation(site=site, status="failed", reason="offline") for site in sorted(self._unmet())]

    def unready(self) -> dict[str, str]:
        """Sites that said that they would not take part, with their codes."""
        return dict(self._unready.values())

    def _unmet(self) -> set[str]:
        """Sites of an earlier attempt that have not shown up in this one."""
        return self._expected - set(self._sites.values()) - {site for site, _ in self._unready.values()}

    def _is_due(self, node: int) -> bool:
        if node in self._hellos:
            return False
        if node in self._unready:
            return time.monotonic() - self._asked.get(node, 0.0) >= AGAIN_SECONDS
        return node not in self._sites or node in self._busy

    def _enter(self, node: int, admitted: str, answer: Message) -> None:
        """Enter what a node said; a name that is another's is not given twice."""
        if not from_node(answer):
            return  # lost on its way: it is asked again
        site, code, release = self._judge(node, admitted, answer)
        self._busy.discard(node)
        self._unready = {n: (name, why) for n, (name, why) in self._unready.items() if n != node and name != site}
        if code:
            self._sites.pop(node, None)
            self._unready[node] = (site, code)
        else:
            self._sites = {other: name for other, name in self._sites.items() if name != site} | {node: site}
        self._note("hello", site=site, ready=not code, reason=code, release=release)

    def _judge(self, node: int, admitted: str, answer: Message) -> tuple[str, str, str]:
        """The site to enter the node as, the code why it is not ready, or "", and its release of fedct, if it said one."""
        stranger = admitted or f"node-{node}"
        try:
            if answer.has_error():
                raise RunError("node error")
            hello = Hello.from_config(config_of(answer))
        except (FedctError, KeyError, TypeError):
            return stranger, "bad-hello", ""
        if admitted and hello.site == NAMELESS and not hello.ready:
            return admitted, hello.code, hello.release
        if admitted and hello.site != admitted:
            return stranger, "wrong-site", hello.release
        others = [name for other, name in self._sites.items() if other != node]
        others += [name for other, (name, _) in self._unready.items() if other != node]
        if not admitted and hello.site in others:
            return stranger, "name-taken", hello.release
        return hello.site, "" if hello.ready else hello.code or "not-ready", hello.release
