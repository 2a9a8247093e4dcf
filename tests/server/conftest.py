"""A Flower grid in memory, with peers that may be hostile."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common import messages
from common.messages import Hello, Request
from common.metrics import Counts
from common.models.resnet import build_model


class MemoryGrid(Grid):
    """``peers``: node -> function(message) -> reply Message, or None for silence.

    ``names``: what the nodes were admitted as. ``absent``: nodes that are not connected. ``script``: called with the
    grid each time that somebody looks who is there.
    """

    def __init__(
        self, peers: dict[int, Callable[[Message], Message | None]], names: dict[int, str] | None = None
    ) -> None:
        self.peers, self.names = peers, names or {}
        self.sent: list[Message] = []
        self.absent: set[int] = set()
        self.since: dict[int, str] = {}
        self.script: Callable[[MemoryGrid], None] = lambda _: None
        self._ready: dict[str, Message] = {}

    def set_run(self, run) -> None: ...

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        self.script(self)
        return [node for node in self.peers if node not in self.absent]

    def get_nodes(self):
        return [
            SimpleNamespace(node_id=node, name=self.names.get(node, ""), last_activated_at=self.since.get(node, ""))
            for node in self.get_node_ids()
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
            self.sent.append(message)
            self.answer(message, self.peers[message.metadata.dst_node_id](message))
            ids.append(message.metadata.message_id)
        return ids

    def answer(self, message: Message, reply: Message | None) -> None:
        if reply is not None:
            self._ready[message.metadata.message_id] = reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (name,) = message_ids  # one update in memory at a time
        node = next(m.metadata.dst_node_id for m in self.sent if m.metadata.message_id == name)
        assert node not in self.absent, "Flower would answer for an absent node with an error, for good"
        return [self._ready.pop(name)] if name in self._ready else []

    def to(self, node: int, kind: str) -> list[Message]:
        """What was sent to a node, of this kind."""
        return [m for m in self.sent if (m.metadata.dst_node_id, m.metadata.message_type) == (node, kind)]

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


class Peer:
    """A site; ``edit`` turns its honest reply and update into a hostile one."""

    def __init__(
        self, site: str, edit=None, hello=None, silent_after: int | None = None, size: int | None = None
    ) -> None:
        self.site, self.edit, self.hello, self.silent_after, self.size = site, edit, hello, silent_after, size

    def __call__(self, message: Message) -> Message | None:
        request = Request.from_config(dict(message.content[messages.CONFIG]))
        study = request.parse_study()
        if message.metadata.message_type == "query":
            answer = Hello(**{"site": self.site, "release": "1", "ready": True, **(self.hello or {})})
            return Message(RecordDict({messages.CONFIG: ConfigRecord(answer.to_config())}), reply_to=message)
        if self.silent_after is not None and request.round > self.silent_after:
            return None
        size = self.size or sum(p.numel() for p in build_model(study, device="meta").parameters() if p.requires_grad)
        counts = Counts.of(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), study.evaluation.score_bins)
        reply = {
            "version": messages.VERSION,
            "site": self.site,
            "study_digest": study.digest,
            "round": request.round,
            "status": "ok",
            "code": "",
            "evaluation": "exact",
            "counts": counts.to_vector().tobytes(),
            "counts_std": 0.0,
            "epsilon": 1.5,
        }
        update = np.full(size, 1e-3, dtype=np.float32)
        if self.edit:
            edited = self.edit(reply, update)
            if isinstance(edited, Error):
                return Message(edited, reply_to=message)
            reply, update = edited
        content = RecordDict({messages.CONFIG: ConfigRecord(reply)})
        if update is not None and message.metadata.message_type == "train":
            content[messages.UPDATE] = ArrayRecord({messages.ARRAY: Array(update)})
        return Message(content, reply_to=message)


@pytest.fixture
def peer():
    return Peer


@pytest.fixture
def grid(monkeypatch):
    """Flower's messages ask the process which run and node it is."""
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    return MemoryGrid
