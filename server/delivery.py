"""Send messages to nodes and take the replies as they come, until a deadline.

A reply is mapped to its node by the message it answers: Flower reports a dead node's error with
another sender.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

POLL_SECONDS = 0.2


def deliver(
    grid: Grid, contents: Mapping[int, RecordDict], message_type: str, *, group: str, seconds: float
) -> Iterator[tuple[int, Message]]:
    """Push one message a node and yield (node, reply) as replies come.

    Ends when all have answered or ``seconds`` have passed; who is missing by then did not answer.
    Messages expire with the deadline, so a straggler does not work on an old round.
    """
    end = time.monotonic() + seconds
    messages = [Message(content, node, message_type, ttl=seconds, group_id=group) for node, content in contents.items()]
    ids = grid.push_messages(messages)
    del messages
    waiting = {message_id: node for node, message_id in zip(contents, ids, strict=True) if message_id}
    while waiting and time.monotonic() < end:
        replies = list(grid.pull_messages(list(waiting)))
        for reply in replies:
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is not None:
                yield node, reply
        if waiting and not replies:
            time.sleep(POLL_SECONDS)


def wait_for_nodes(grid: Grid, minimum: int, seconds: float) -> list[int]:
    """The connected nodes, once there are ``minimum`` or the time is over; sorted."""
    end = time.monotonic() + seconds
    while True:
        nodes = sorted(grid.get_node_ids())
        if len(nodes) >= minimum or time.monotonic() > end:
            return nodes
        time.sleep(POLL_SECONDS)
