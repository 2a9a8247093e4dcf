"""What a model file says of itself: safetensors metadata, as ``common.models.weights.save_weights`` writes it."""

from __future__ import annotations

import json


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
