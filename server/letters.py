"""What goes down to the sites in a round: the question, and the model in as few bytes as each site needs.

Every message that asks for work carries the shared weights (``common.models.parts``). The base goes to a site until
one of its answers shows that it has it, and again if it says that it lost it; SCAFFOLD's correction is each site's own.
Messages are made as they are sent, one content at a time, so their number does not count in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

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
        for group in self._groups(nodes, correction):
            own = correction(nodes[group[0]]) if correction else None
            content, size = self._letter(request, own, with_base=group[0] not in self._holders)
            self.bytes += size * len(group)
            yield group, content

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

    def _letter(self, request: Request, correction: Vector | None, *, with_base: bool) -> tuple[RecordDict, int]:
        wire = self._study.federation.wire
        try:
            shared, exponent = pack(parts.read(parts.shared(self._model, self._study)), wire)
            arrays, drift = {messages.ARRAY: shared}, 0
            if correction is not None:
                arrays[messages.CORRECTION], drift = pack(correction, wire)
        except ValueError as error:
            raise RunError(f"the model can't be sent: {error}", "Lower the learning rate") from None
        if with_base:
            arrays[messages.BASE] = parts.read(parts.base(self._model, self._study))
        size = sum(array.nbytes for array in arrays.values())
        content = _content(request.model_copy(update={"exponent": exponent, "correction_exponent": drift}))
        record = ArrayRecord()
        for name in list(arrays):
            record[name] = Array(arrays.pop(name))
        content[messages.MODEL] = record
        return content, size


def _content(request: Request) -> RecordDict:
    return RecordDict({messages.CONFIG: ConfigRecord(request.to_config())})
