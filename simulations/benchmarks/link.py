"""A SuperLink and sites for one coordinator's process, at the other end of a pipe.

The coordinator's side is Flower's own ``HttpGrid``: it packs, chunks, hashes, pulls and unpacks as it does over the
network, and only the HTTPS requests go through a pipe instead. This side stores nothing that was pushed, and answers
each message at once with an update that is the same for all sites; so one process can stand for a hundred sites.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Metadata, RecordDict
from flwr.app.message import make_message, remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import (
    GetNodesResponse,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
    PushAppMessagesRequest,
    PushAppMessagesResponse,
)
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

RUN = 1
_RESPONSES: dict[str, Any] = {
    "GetNodes": GetNodesResponse,
    "PushMessages": PushAppMessagesResponse,
    "PushObject": PushObjectResponse,
    "PullMessages": PullAppMessagesResponse,
    "PullObject": PullObjectResponse,
    "ConfirmMessageReceived": ConfirmMessageReceivedResponse,
}

Answer = Callable[[int, str, str], RecordDict]
"""(node, message type, group) -> content of the reply"""


class _Client:
    """In place of Flower's ``RuntimeHttpClient``: each method sends its request through the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()  # Flower pulls objects in two threads

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        def call(request: Any) -> Any:
            with self._lock:
                self._pipe.send_bytes(method.encode() + b"\n" + request.SerializeToString())
                return _RESPONSES[method].FromString(self._pipe.recv_bytes())

        return call


def grid(pipe: Connection) -> HttpGrid:
    """Flower's grid over ``pipe``, for a process that does nothing else with Flower."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = RUN
    found = HttpGrid(token="none")  # noqa: S106 - nobody checks it
    found._client = _Client(pipe)  # type: ignore[assignment] # noqa: SLF001 - the one place where requests leave
    found.set_run(Run.create_empty(RUN))
    return found


class Link:
    """Answers the coordinator: nodes 1 to ``sites``, each message by ``answer``."""

    def __init__(self, sites: int, answer: Answer) -> None:
        self._sites, self._answer = sites, answer
        self._asked: dict[str, Any] = {}
        self._known: set[str] = set()
        self._objects: dict[str, Any] = {}
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = RUN

    def serve(self, pipe: Connection) -> None:
        """Answer requests until the other side closes the pipe."""
        while True:
            try:
                request = pipe.recv_bytes()
            except EOFError:
                return
            method, _, body = request.partition(b"\n")
            pipe.send_bytes(getattr(self, f"_{method.decode()}")(body).SerializeToString())

    def _GetNodes(self, _: bytes) -> Any:  # noqa: N802 - the method's name at Flower
        return GetNodesResponse(nodes=[NodeInfo(node_id=n, name=f"site-{n}") for n in range(1, self._sites + 1)])

    def _PushMessages(self, body: bytes) -> Any:  # noqa: N802
        request = PushAppMessagesRequest.FromString(body)
        for message in request.messages_list:
            self._asked[message.metadata.message_id] = message.metadata
        named = {tree.object_id for root in request.message_object_trees for tree in iterate_object_tree(root)}
        missing, self._known = named - self._known, self._known | named
        names = [message.metadata.message_id for message in request.messages_list]
        return PushAppMessagesResponse(message_ids=names, objects_to_push=missing)

    def _PushObject(self, _: bytes) -> Any:  # noqa: N802
        return PushObjectResponse(stored=True)

    def _PullMessages(self, body: bytes) -> Any:  # noqa: N802
        found = PullAppMessagesResponse()
        for name in PullAppMessagesRequest.FromString(body).message_ids:
            asked = self._asked.pop(name, None)
            if asked is None:
                continue
            reply = make_message(
                Metadata(
                    run_id=RUN,
                    message_id="",
                    src_node_id=asked.dst_node_id,
                    dst_node_id=asked.src_node_id,
                    reply_to_message_id=name,
                    group_id=asked.group_id,
                    created_at=asked.created_at,
                    ttl=asked.ttl,
                    message_type=asked.message_type,
                ),
                self._answer(asked.dst_node_id, asked.message_type, asked.group_id),
            )
            with no_object_id_recompute():
                reply.metadata.__dict__["_message_id"] = reply.object_id
                self._objects |= get_all_nested_objects(reply)
                found.messages_list.append(message_to_proto(remove_content_from_message(reply)))
                found.message_object_trees.append(get_object_tree(reply))
        return found

    def _PullObject(self, body: bytes) -> Any:  # noqa: N802
        found = self._objects[PullObjectRequest.FromString(body).object_id]
        return PullObjectResponse(object_found=True, object_available=True, object_content=found.deflate())

    def _ConfirmMessageReceived(self, _: bytes) -> Any:  # noqa: N802
        return ConfirmMessageReceivedResponse()
