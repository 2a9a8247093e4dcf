"""What a run needs to go on after its process was killed, durable after each round.

::

    OUT/run/rounds/00003.json               the record of a round, as in results.json
    OUT/run/checkpoints/00003.safetensors   the global model after it, and all else that the next round starts from

A checkpoint holds the SHA-256 of every vector in it and of its own description, and a chain over the records of all
rounds up to its own. It is written whole or not at all, after its round's record; the one before is kept until then.
So a round counts exactly from the moment when its checkpoint has its name: a record without one is written over when
the round is repeated. A checkpoint that does not hold is passed over for the one before.

Nothing here stems from a site but what it released: no site's noise or random state, which nobody may restore.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ValidationError

from common.errors import RunError
from common.files import write_atomic
from common.study import canonical_json
from common.wire import Vector
from server.results import RoundRecord

Record = TypeVar("Record", bound=BaseModel)
_FORMAT = 1
_WEIGHTS = "weights"
_STATE = "state."
_KEPT = 2


class Damaged(Exception):  # noqa: N818 - a finding; it never leaves this module
    """A checkpoint or record that does not hold."""


@dataclass(frozen=True)
class Checkpoint:
    """How a run stands after ``round`` rounds.

    ``study``: its digest. ``seed``: the coordinator's, from which all that it draws follows. ``weights``: all of the
    model's, float32. ``state``: the strategy's vectors. ``records``: one a round, in order. ``sites``: every site met.
    ``epsilon``, ``evaluation``: what each site last said of its charge, and how its counts left.
    """

    study: str
    seed: int
    started: datetime
    round: int
    weights: Vector
    state: Mapping[str, Vector] = field(default_factory=dict)
    records: tuple[RoundRecord, ...] = ()
    sites: tuple[str, ...] = ()
    epsilon: Mapping[str, float] = field(default_factory=dict)
    evaluation: Mapping[str, str] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Make ``checkpoint`` of a run's inner ``folder`` durable, then drop all but the newest two. OSError passes through.

    Records of earlier rounds are taken to be there; the last one is written.
    """
    for name in ("rounds", "checkpoints"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
        for half in (folder / name).glob(".*"):  # what a killed process was writing
            half.unlink()
    last = checkpoint.records[-1]
    write_atomic(record_file(folder, last.round), last.model_dump_json().encode())
    vectors = {_WEIGHTS: checkpoint.weights} | {_STATE + name: one for name, one in checkpoint.state.items()}
    description = canonical_json(
        {
            "format": _FORMAT,
            "study": checkpoint.study,
            "seed": checkpoint.seed,
            "started": checkpoint.started.isoformat(),
            "round": checkpoint.round,
            "records": _chain_of_next(folder, checkpoint.round),
            "sites": list(checkpoint.sites),
            "epsilon": dict(checkpoint.epsilon),
            "evaluation": dict(checkpoint.evaluation),
            "vectors": {name: _digest(vector.data) for name, vector in vectors.items()},
        }
    )
    metadata = {"fedct": description, "sha256": _digest(description.encode())}
    write_atomic(_checkpoint_file(folder, checkpoint.round), *_packed(vectors, metadata))
    for path in _files(folder)[:-_KEPT]:
        path.unlink()


def newest(folder: Path, study: str) -> Checkpoint | None:
    """The newest checkpoint that holds, of a run's inner ``folder``; None when no round was ever complete.

    Raises RunError when there are some and none holds, or the newest is of another study than the digest ``study``.
    """
    damaged = []
    for path in reversed(_files(folder)):
        try:
            found = _read(folder, path)
        except (Damaged, OSError) as error:
            damaged.append(f"'{path.name}': {error}")
            continue
        if found.study != study:
            raise RunError(f"'{path}' is of study {found.study[:12]}; this run's is {study[:12]}", "Launch it anew")
        return found
    if damaged:
        raise RunError(
            f"no checkpoint of '{folder}' holds ({'; '.join(damaged)})",
            "Restore the folder from its copy, or launch the study anew",
        )
    return None


def records(folder: Path, kind: type[Record], after: int = 0) -> Iterator[Record]:
    """The records of the rounds that count and come ``after``, for whoever only shows them.

    ``kind``: a model of as much of ``RoundRecord`` as is wanted. Those that can't be read are left out.
    """
    files = _files(folder)
    for round_ in range(after + 1, int(files[-1].stem) + 1 if files else 1):
        try:
            yield kind.model_validate_json(record_file(folder, round_).read_bytes())
        except (OSError, ValidationError):
            continue


def _read(folder: Path, path: Path) -> Checkpoint:
    """One checkpoint, with its records. Raises Damaged at the first thing that does not hold."""
    content = path.read_bytes()
    description = _description(content)
    try:
        vectors = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise Damaged(f"not a safetensors file ({error})") from None
    if {name: _digest(vector.data) for name, vector in vectors.items()} != description["vectors"]:
        raise Damaged("a vector is not the one that was written")
    round_ = int(description["round"])
    read = [record_file(folder, number).read_bytes() for number in range(1, round_ + 1)]
    if _chain(read) != description["records"]:
        raise Damaged(f"the records of rounds 1 to {round_} are not those that were written")
    return Checkpoint(
        study=description["study"],
        seed=description["seed"],
        started=datetime.fromisoformat(description["started"]),
        round=round_,
        weights=vectors[_WEIGHTS],
        state={name.removeprefix(_STATE): one for name, one in vectors.items() if name.startswith(_STATE)},
        records=tuple(RoundRecord.model_validate_json(one) for one in read),
        sites=tuple(description["sites"]),
        epsilon=description["epsilon"],
        evaluation=description["evaluation"],
    )


def _packed(vectors: Mapping[str, Vector], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A safetensors file in parts. The library's own writer copies every vector twice, here three messages or more."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, vector in vectors.items():
        start, end = end, end + vector.nbytes
        header[name] = {"dtype": "F32", "shape": [vector.size], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text))
    yield text
    yield from (np.ascontiguousarray(vector, dtype="<f4").data.cast("B") for vector in vectors.values())


def _description(content: bytes) -> dict[str, Any]:
    """The description in a safetensors header: 8 bytes of length, then JSON."""
    try:
        (length,) = struct.unpack("<Q", content[:8])
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        text = metadata["fedct"]
        if _digest(text.encode()) != metadata["sha256"]:
            raise Damaged("its description is not the one that was written")
        found: dict[str, Any] = json.loads(text)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise Damaged("it is cut off, or no checkpoint") from None
    if found.get("format") != _FORMAT:
        raise Damaged(f"format {found.get('format')!r}; this release reads {_FORMAT}")
    return found


def _chain(contents: Iterable[bytes], before: str = "") -> str:
    """SHA-256 over records in order, each bound to those before. ``before``: the chain that they go on from."""
    digest = before
    for content in contents:
        digest = _digest(digest.encode() + content)
    return digest


def _chain_of_next(folder: Path, round_: int) -> str:
    """The chain of rounds 1 to ``round_``, whose record is there; from the checkpoint before it, if that holds.

    So a round's work does not grow with the rounds before. OSError when a record is missing.
    """
    first, before = 1, ""
    try:
        with _checkpoint_file(folder, round_ - 1).open("rb") as file:
            head = file.read(8)
            before = _description(head + file.read(int.from_bytes(head, "little")))["records"]
        first = round_
    except (Damaged, OSError, OverflowError, MemoryError):
        pass  # the first round, or a checkpoint that does not hold: all records are read
    return _chain((record_file(folder, number).read_bytes() for number in range(first, round_ + 1)), before)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def record_file(folder: Path, round_: int) -> Path:
    """Where the record of a round is."""
    return folder / "rounds" / f"{round_:05d}.json"


def _checkpoint_file(folder: Path, round_: int) -> Path:
    return folder / "checkpoints" / f"{round_:05d}.safetensors"


def _files(folder: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted((folder / "checkpoints").glob("[0-9]*.safetensors"))
