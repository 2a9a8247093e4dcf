"""What goes down to the sites in a round: the question, and the model in as few bytes as each site needs.

Every message that asks for work carries the shared weights (``common.models.parts``). The base goes to a site until
one of its answers shows that it has it, and again if it says that it lost it; SCAFFOLD's correction is each site's own.
Messages are made as they are sent, one content at a time, so their number does not count in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import nn

from common import messages
from common.errors import RunError
from common.messages import Request
from common.models import parts
from common.models.parts import Vector
from common.study import Study
from common.wire import pack

Correction = Callable[[str], Vector | None]
Letter = tuple[list[int], RecordDict]
"""Nodes, and the content that goes to each of them."""


class Letters:
    """Writes the messages of one run; ``model`` holds the global weights of the moment."""

    def __init__(self, study: Study, model: nn.Module, seed: int) -> None:
        self._study, self._model, self._seed = study, model, seed
        self._holders: set[int] = set()
        self._base = parts.digest(parts.read(parts.base(model, study)))
        self.bytes = 0
        """Weights sent since this was last set to 0, in bytes."""

    def question(self, round_: int) -> RecordDict:
        """A message without a model."""
        return _content(Request(study=self._study.canonical_json(), round=round_, seed=self._seed))

    def with_model(self, round_: int, nodes: Mapping[int, str], correction: Correction | None) -> Iterator[Letter]:
        """The letters of a round to ``nodes`` (with the names of their sites); equal ones together.

        Raises RunError when the model is not finite.
        """
        request = Request(study=self._study.canonical_json(), round=round_, seed=self._seed, base=self._base)
        shared, exponent = self._packed(parts.read(parts.shared(self._model, self._study)))  # once for all
        for group in self._groups(nodes, correction):
            record, drift = ArrayRecord({messages.ARRAY: shared}), 0
            own = correction(nodes[group[0]]) if correction else None
            if own is not None:
                record[messages.CORRECTION], drift = self._packed(own)
            del own
            if group[0] not in self._holders:
                record[messages.BASE] = Array(parts.read(parts.base(self._model, self._study)))
            self.bytes += len(group) * sum(_bytes(array) for array in record.values())
            content = _content(request.model_copy(update={"exponent": exponent, "correction_exponent": drift}))
            content[messages.MODEL] = record
            yield group, content
            del record, content  # before the next is made

    def arrived(self, node: int, code: str) -> None:
        """A node answered a letter with this code: whether it has the base now."""
        if code == messages.BASE_MISSING:
            self._holders.discard(node)
        elif not code:
            self._holders.add(node)

    def _groups(self, nodes: Iterable[int], correction: Correction | None) -> list[list[int]]:
        if correction:
            return [[node] for node in nodes]
        known, new = [n for n in nodes if n in self._holders], [n for n in nodes if n not in self._holders]
        return [group for group in (known, new) if group]

    def _packed(self, vector: Vector) -> tuple[Array, int]:
        """Weights as they travel, and their exponent. Raises RunError when they are not finite."""
        try:
            array, exponent = pack(vector, self._study.federation.wire)
        except ValueError as error:
            raise RunError(f"the model can't be sent: {error}", "Lower the learning rate") from None
        return Array(array), exponent


def _bytes(array: Array) -> int:
    return math.prod(array.shape) * np.dtype(array.dtype).itemsize


def _content(request: Request) -> RecordDict:
    return RecordDict({messages.CONFIG: ConfigRecord(request.to_config())})
