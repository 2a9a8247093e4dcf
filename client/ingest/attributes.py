"""Attributes of a data set as plain values, whatever was written there.

None of this raises: what can't be read as a number is not a number, and is judged as a damaged value.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable
from typing import Any, TypeVar

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.uid import UID

Value = TypeVar("Value")
_PLAIN = frozenset(("CS", "DS", "IS", "UI"))  # ASCII text, whatever the character set
_TEXT = frozenset(("LO", "SH"))
_ESCAPE = b"\x1b"  # changes the character set; without it ASCII bytes are ASCII in all of DICOM's (PS3.5 6.1.2)


@functools.lru_cache(maxsize=4096, typed=True)
def _shared(value: Any) -> Any:
    return value


def share(value: Value) -> Value:
    """The same object for equal values, so that 100,000 slices do not hold 100,000 copies of a UID."""
    found: Value = _shared(value)
    return found


class Elements:
    """The elements of a header as they lie in it, by tag; ``parse`` makes a data set of them if one is needed."""

    def __init__(self, raw: dict[int, RawDataElement | DataElement], parse: Callable[[], Dataset]) -> None:
        self.raw = raw
        self._parse = parse

    @functools.cached_property
    def full(self) -> Dataset:
        """The same as pydicom's data set, which takes longer to make than to read."""
        return self._parse()


Attributes = Dataset | Elements


def values(dataset: Attributes | None, tag: str) -> list[Any]:
    """The values of an element, whatever its multiplicity; empty when it is absent or empty, [None] if damaged."""
    if dataset is None:
        return []
    try:
        number, vr = _look_up(tag)
        element: Any = dataset.raw.get(number) if isinstance(dataset, Elements) else dataset.get_item(number)
        if element is None:
            return []
        if isinstance(element, RawDataElement):
            found = _quick(element.value or b"", vr, element.VR or vr, "<" if element.is_little_endian else ">")
            if found is not None:
                return found
        value = (dataset.full if isinstance(dataset, Elements) else dataset)[number].value
        if value is None or value == "":
            return []
        return [value] if isinstance(value, (str, float, int, bytes)) else list(value)
    except Exception:  # pydicom converts on access, and raises many kinds
        return [None]


def _quick(raw: bytes, vr: str, written: str, order: str) -> list[Any] | None:
    """The values of an element as ``values`` gives them, or None for what is left to pydicom.

    Its conversion takes several times as long, and would be most of the time of a scan.
    """
    if vr in _PLAIN and written in _PLAIN:
        plain = raw.decode("latin-1").strip(" \0")
        return plain.split("\\") if plain else []
    if vr in _TEXT and written in _TEXT and raw.isascii() and _ESCAPE not in raw:
        parts = [part.rstrip("\0 ") for part in raw.decode("ascii").split("\\")]
        return parts if parts != [""] else []
    if vr == "US" and written == "US" and len(raw) == 2:
        return list(struct.unpack(f"{order}H", raw))
    return None


@functools.cache
def _look_up(keyword: str) -> tuple[int, str]:
    """Tag and VR of a keyword of the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return int(tag), dictionary_VR(tag)


def text(dataset: Attributes | None, tag: str) -> str:
    """An element as text, its values joined by a backslash; empty when absent or damaged."""
    parts = (_decoded(value) for value in values(dataset, tag) if value is not None)
    return share("\\".join(parts).strip(" \0"))


def codes(dataset: Attributes | None, tag: str) -> list[str]:
    """The values of a CS element in capitals."""
    return [share(_decoded(value).strip(" \0").upper()) for value in values(dataset, tag)]


def numbers(dataset: Attributes | None, tag: str) -> list[float]:
    """The values of an element as numbers, NaN for what is none; empty when absent."""
    return [_number(value) for value in values(dataset, tag)]


def whole(dataset: Attributes | None, tag: str, default: int) -> int:
    """An element that is one whole number; ``default`` when absent, -1 when it is something else."""
    found = numbers(dataset, tag)
    if not found:
        return default
    return int(found[0]) if len(found) == 1 and found[0].is_integer() else -1


def items(dataset: Attributes | None, tag: str) -> list[Dataset]:
    """The items of a sequence; empty when absent or damaged."""
    return [value for value in values(dataset, tag) if isinstance(value, Dataset)]


@functools.lru_cache(maxsize=256)
def name_of(uid: str) -> str:
    """The standard's name of a UID (PS3.6 A); never the UID itself, which a file might have made up."""
    if not uid:
        return "not given"
    name = UID(uid).name
    return "not in the standard" if name == uid else name


def _decoded(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
