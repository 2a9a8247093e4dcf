"""A Flower grid in memory, with peers that may be hostile."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from common import messages
from common.messages import Hello, Request
from common.metrics import Counts


class MemoryGrid(Grid):
    """``peers``: node -> function(message) -> reply Message, or None for silence."""

    def __init__(self, peers: dict[int, Callable[[Message], Message | None]]) -> None:
        self.peers = peers
        self.sent: list[Message] = []
        self._ready: dict[str, Message] = {}

    def set_run(self, run) -> None: ...

    @property
    def run(self):
        raise NotImplementedError

    def create_message(self, *args, **kwargs):
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.peers)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{len(self.sent)}"
            self.sent.append(message)
            reply = self.peers[message.metadata.dst_node_id](message)
            if reply is not None:
                self._ready[message.metadata.message_id] = reply
            ids.append(message.metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._ready.pop(i) for i in list(message_ids) if i in self._ready]

    def send_and_receive(self, messages, *, timeout=None):
        raise NotImplementedError


class Peer:
    """A site; ``edit`` turns its honest reply and update into a hostile one."""

    def __init__(self, site: str, edit=None, hello=None, silent_after: int | None = None) -> None:
        self.site, self.edit, self.hello, self.silent_after = site, edit, hello, silent_after

    def __call__(self, message: Message) -> Message | None:
        request = Request.from_config(dict(message.content[messages.CONFIG]))
        study = request.parse_study()
        if message.metadata.message_type == "query":
            answer = Hello(**{"site": self.site, "release": "1", "ready": True, **(self.hello or {})})
            return Message(RecordDict({messages.CONFIG: ConfigRecord(answer.to_config())}), reply_to=message)
        if self.silent_after is not None and request.round > self.silent_after:
            return None
        size = message.content[messages.MODEL][messages.ARRAY].numpy().size
        counts = Counts.of(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), study.evaluation.score_bins)
        reply = {
            "version": 1,
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
