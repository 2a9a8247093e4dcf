"""Flower's arrays with one copy in memory instead of three.

Flower 1.41 puts a received array together in a bytearray beside its chunks, copies that to bytes, and copies these
once more for numpy. An update of 100 MB so takes 400 MB for a moment, on a coordinator that should do with little.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
from collections import Counter
from io import BytesIO
from typing import Any, cast

import numpy as np
from flwr.app import Array
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import SType
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_object_body,
    get_object_children_ids_from_object_content,
)
from numpy.typing import NDArray

_M_MMAP_THRESHOLD = -3  # of mallopt(3)
_MMAP_BYTES = 1 << 20


def spare_memory() -> None:
    """From now on put arrays together in this process without copies, and give what is freed back to the system.

    glibc would keep chunks of a few MB for later, which adds a message or two to the process. (Training is slower
    without that cache; the coordinator's process does not train.)
    """
    Array.inflate = classmethod(_inflate)  # type: ignore[method-assign,assignment]
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def view(array: Array) -> NDArray[Any]:
    """What ``array.numpy()`` is, on the message's own bytes, without a copy. ValueError when they are no plain array."""
    data = memoryview(array.data)
    header = BytesIO(data[:4096])
    if array.stype != SType.NUMPY or np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("not an array of numpy's format 1.0")
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(header)
    if by_column or dtype.hasobject:
        raise ValueError(f"an array of {dtype} by column; expected plain numbers by row")
    return np.frombuffer(data, dtype, offset=header.tell()).reshape(shape)


def _inflate(cls: type[Array], object_content: bytes, children: dict[str, InflatableObject] | None = None) -> Array:
    """In place of ``Array.inflate``, whose checks it keeps. ValueError when the chunks are not those named."""
    named = get_object_children_ids_from_object_content(object_content)
    body = json.loads(get_object_body(object_content, cls))
    order = [named[index] for index in body["arraychunk_ids"]]
    chunks = cast("dict[str, ArrayChunk]", children or {})
    if set(order) != set(chunks):
        raise ValueError("the chunks of an array are not those that it names")
    array = cls(dtype=body["dtype"], shape=tuple(body["shape"]), stype=body["stype"], data=b"")
    uses, data = Counter(order), BytesIO()
    for name in order:
        data.write(chunks[name].data)
        uses[name] -= 1
        if not uses[name]:
            chunks[name].data = memoryview(b"")
    array.data = data.getvalue()  # no copy: it is the buffer itself
    return array
