"""Long lists in pages, and the words that they are searched by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

T = TypeVar("T")
ROWS = 30
LONGEST = 200
"""Characters of a search."""


@dataclass(frozen=True)
class Sheet(Generic[T]):
    """One page of a list. ``number``, of ``pages``, from 1; ``found``: length of the whole list."""

    rows: Sequence[T]
    number: int
    pages: int
    found: int

    @classmethod
    def of(cls, rows: Sequence[T], number: int) -> Self:
        """Page ``number``; the last one if there are fewer."""
        pages = max(1, -(-len(rows) // ROWS))
        number = min(number, pages)
        return cls(rows[(number - 1) * ROWS : number * ROWS], number, pages, len(rows))


def matches(words: str, text: str) -> bool:
    """Whether each of the ``words`` is somewhere in ``text``, in capitals or not."""
    low = text.lower()
    return all(word in low for word in words.lower().split())
