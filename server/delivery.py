"""Messages under way between the coordinator and nodes, as Flower 1.41 carries and loses them.

1. A reply is mapped to its node by the message that it answers: Flower reports a dead node's error with another
   sender.
2. Replies of a node that is not connected are not asked for. Once its lease of 60 s has lapsed, Flower answers for it
   with an error and refuses the true reply for good, so that a minute without network would cost a round's work.
3. Replies are pulled one at a time, so that no more than one update is in memory.
4. A reply is there to be pulled when all of it has arrived, so pulling it waits for no site (``server.uploads``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

SUPERLINKS_OWN = frozenset(
    {ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE}
)
"""Errors that Flower's SuperLink makes itself: they say nothing of what the node has done."""
LOST = SUPERLINKS_OWN | {ErrorCode.CLIENT_APP_CRASHED}
"""Errors after which no answer to that message will come, though the site never gave one."""


@dataclass(frozen=True)
class Presence:
    """A connected node. ``name``: the site that it was admitted for, "" in a simulation. ``since``: its last activation."""

    name: str
    since: str


class _NodeInfo(Protocol):
    node_id: int
    name: str
    last_activated_at: str


class _ListsNodes(Protocol):
    def get_nodes(self) -> Iterable[_NodeInfo]: ...


class Post:
    """Sends messages and takes replies. ``admitted``: nodes bear the names that the registry gave them."""

    def __init__(self, grid: Grid, *, admitted: bool) -> None:
        self._grid, self._admitted = grid, admitted

    def connected(self) -> dict[int, Presence]:
        """The nodes that are there now, by number. A node without a name is nobody's, and left out."""
        if not self._admitted:
            return {node: Presence("", "") for node in sorted(self._grid.get_node_ids())}
        nodes = cast("_ListsNodes", self._grid).get_nodes()
        found = {node.node_id: Presence(node.name, node.last_activated_at) for node in nodes}
        return {node: found[node] for node in sorted(found) if found[node].name}

    def send(self, contents: Mapping[int, RecordDict], kind: str, *, group: str, seconds: float) -> dict[int, str]:
        """Send one message a node; the messages' names by node, without those that Flower did not take.

        They expire after ``seconds``: who has not fetched one by then never gets it, and no reply is taken after it.
        """
        if not contents:
            return {}
        letters = [Message(content, node, kind, ttl=seconds, group_id=group) for node, content in contents.items()]
        names = list(self._grid.push_messages(letters))
        return {node: name for node, name in zip(contents, names, strict=False) if name}

    def take(self, name: str) -> Message | None:
        """The reply to the message of this name, once; None while there is none."""
        return next((m for m in self._grid.pull_messages([name]) if m.metadata.reply_to_message_id == name), None)


def lost(reply: Message) -> bool:
    """Whether this reply says that no answer will come, though the site gave none."""
    return reply.has_error() and reply.error.code in LOST


def from_node(reply: Message) -> bool:
    """Whether the node itself made this reply, rather than the SuperLink in its stead."""
    return not (reply.has_error() and reply.error.code in SUPERLINKS_OWN)
