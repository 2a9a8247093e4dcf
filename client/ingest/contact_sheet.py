"""Examples as the network will see them, to be looked at.

A wrong window, a mirrored body or a spine upside down shows here and in no number. The pixels are the
stored ones: nothing is stretched or cut for the eye.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.ingest.store import Planes

OF_CLASS = 5
"""Examples of each class, of different patients as far as there are."""
IN_ALL = 40


@dataclass(frozen=True)
class Tile:
    """One example: its class, the first six hex digits of its patient's pseudonym, and a PNG.

    The PNG is the centre plane in 8-bit grey, the study's windows from left to right.
    """

    label: str
    pseudonym: str
    png: bytes


def contact_sheet(
    examples: NDArray[np.void],
    patients: NDArray[np.void],
    planes: Planes,
    classes: Sequence[str],
    cohort_digest: str,
) -> list[Tile]:
    """Some examples of each class; which, is random and fixed by ``cohort_digest``."""
    rng = np.random.default_rng(int(cohort_digest[:16], 16))
    each = max(1, min(OF_CLASS, IN_ALL // len(classes)))
    tiles: list[Tile] = []
    for index, name in enumerate(classes):
        for number in _pick(rng, examples, index, each):
            example = examples[number]
            plane = np.asarray(planes[example["planes"][1:2]])[0]  # [windows, size, size]
            pseudonym = bytes(patients["pseudonym"][example["patient"]]).hex()[:6]
            tiles.append(Tile(name, pseudonym, _png(np.hstack(list(plane)))))
    return tiles


def _pick(rng: np.random.Generator, examples: NDArray[np.void], label: int, count: int) -> NDArray[np.int64]:
    """Up to ``count`` examples of a class: of as many patients as possible."""
    mine = rng.permutation(np.flatnonzero(examples["label"] == label))
    _, first = np.unique(examples["patient"][mine], return_index=True)
    order = np.concatenate([np.sort(first), np.setdiff1d(np.arange(len(mine)), first)])
    return mine[order[:count].astype(np.int64)]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
