"""How a task hands over its reply, beside Flower's own way."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.runtime.run_clientapp import push_message

from client.task import push_reply


class Node:
    """Takes what is pushed. ``held``: objects that it has already."""

    def __init__(self) -> None:
        self.messages, self.objects = [], {}
        self.held: set[str] = set()

    def PushMessages(self, request):  # noqa: N802 - Flower's names
        self.messages.append(request)
        names, trees = set(), list(request.message_object_trees)
        while trees:
            tree = trees.pop()
            names.add(tree.object_id)
            trees += tree.children
        return SimpleNamespace(objects_to_push=names - self.held, session_id="s")

    def PushObject(self, request):  # noqa: N802
        self.objects[request.object_id] = (request.object_content, request.node.node_id, request.run_id)
        return SimpleNamespace(stored=True)


@pytest.fixture
def reply(monkeypatch):
    """Make a reply with an update of several chunks, two of which are the same."""
    monkeypatch.setattr(TaskIdentity, "_run_id", 7)
    monkeypatch.setattr(TaskIdentity, "_node_id", 5)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 64)

    def make() -> Message:
        update = np.concatenate([np.arange(40), np.zeros(48)]).astype(np.float32)
        content = RecordDict({"fedct": ConfigRecord({"round": 1}), "update": ArrayRecord({"flat": Array(update)})})
        asked = Message(RecordDict(), 5, "train", ttl=60.0)
        asked.metadata.__dict__["_message_id"] = "a" * 64
        return Message(content, reply_to=asked)

    return make


@pytest.fixture
def context():
    return Context(7, 5, {}, RecordDict(), {}, 0)


def test_the_node_gets_what_flowers_own_client_would_give_it(reply, context):
    ours, theirs, answer = Node(), Node(), reply()
    same = copy.deepcopy(answer)
    push_reply(ours, answer, context)
    push_message(theirs, same, context)
    assert ours.objects == theirs.objects
    assert len(ours.objects) > 5
    assert ours.messages == theirs.messages


def test_what_the_node_has_already_is_not_sent_again(reply, context):
    node = Node()
    push_reply(node, reply(), context)
    again = Node()
    again.held = {name for name, (content, *_) in node.objects.items() if content.startswith(b"Array")}
    push_reply(again, reply(), context)
    assert not any(content.startswith(b"Array") for content, *_ in again.objects.values())
    assert again.objects


def test_each_part_of_an_update_is_digested_once(reply, context, monkeypatch):
    deflated, whole = [], ArrayChunk.deflate

    def counted(self):
        deflated.append(bytes(self.data))
        return whole(self)

    monkeypatch.setattr(ArrayChunk, "deflate", counted)
    node = Node()
    push_reply(node, reply(), context)
    chunks = sum(content.startswith(b"ArrayChunk") for content, *_ in node.objects.values())
    assert len(deflated) <= 2 * chunks + 2  # once for its digest, once to send it; the same bytes twice are two chunks
