"""What a model file says of itself: safetensors metadata, as ``common.models.weights.save_weights`` writes it.

And the digest of its weights, which no order of tensors and no metadata changes: the same for the network that was
saved, for the file, and for whatever else holds these weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray


def saved_study(data: bytes) -> str:
    """The study digest in the metadata of a safetensors file. Raises ValueError if there is none."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= len(data) - 8:
        raise ValueError("its header is cut short")
    metadata = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    digest = json.loads(metadata.get("fedct", "{}")).get("study", "")
    if not isinstance(digest, str) or not digest:
        raise ValueError("it names no study")
    return digest


def weights_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, 64 hex digits, over the tensors by name: name, shape and little-endian float32 values of each."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name], dtype="<f4")
        found.update(json.dumps([name, *values.shape]).encode() + b"\n")
        found.update(values.reshape(-1).data)
    return found.hexdigest()


def saved_weights_digest(data: bytes) -> str:
    """``weights_digest`` of a safetensors file. Raises ValueError if it is none."""
    try:
        return weights_digest(safetensors.numpy.load(data))
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file ({error})") from None
