"""Attributes of a data set as plain values, whatever was written there.

None of this raises: what can't be read as a number is not a number, and is judged as a damaged value.
"""

from __future__ import annotations

import functools
import math
from typing import Any, TypeVar

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import BaseTag
from pydicom.uid import UID

Value = TypeVar("Value")
_PLAIN = ("CS", "DS", "IS", "UI")  # ASCII text, whatever the character set


@functools.lru_cache(maxsize=4096, typed=True)
def _shared(value: Any) -> Any:
    return value


def share(value: Value) -> Value:
    """The same object for equal values, so that 100,000 slices do not hold 100,000 copies of a UID."""
    found: Value = _shared(value)
    return found


def values(dataset: Dataset | None, tag: str) -> list[Any]:
    """The values of an element, whatever its multiplicity; empty when it is absent or empty, [None] if damaged."""
    if dataset is None:
        return []
    try:
        number, vr = _look_up(tag)
        if number not in dataset:
            return []
        element: Any = dataset.get_item(number)
        if isinstance(element, RawDataElement) and vr in _PLAIN and (element.VR or vr) in _PLAIN:
            # pydicom's conversion takes several times as long, and is most of the time of a scan
            plain = (element.value or b"").decode("latin-1").strip(" \0")
            return plain.split("\\") if plain else []
        value = dataset[number].value
        if value is None or value == "":
            return []
        return [value] if isinstance(value, (str, float, int, bytes)) else list(value)
    except Exception:  # pydicom converts on access, and raises many kinds
        return [None]


@functools.cache
def _look_up(keyword: str) -> tuple[BaseTag, str]:
    """Tag and VR of a keyword of the standard."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    return BaseTag(tag), dictionary_VR(tag)


def text(dataset: Dataset | None, tag: str) -> str:
    """An element as text, its values joined by a backslash; empty when absent or damaged."""
    parts = (_decoded(value) for value in values(dataset, tag) if value is not None)
    return share("\\".join(parts).strip(" \0"))


def codes(dataset: Dataset | None, tag: str) -> list[str]:
    """The values of a CS element in capitals."""
    return [share(_decoded(value).strip(" \0").upper()) for value in values(dataset, tag)]


def numbers(dataset: Dataset | None, tag: str) -> list[float]:
    """The values of an element as numbers, NaN for what is none; empty when absent."""
    return [_number(value) for value in values(dataset, tag)]


def whole(dataset: Dataset | None, tag: str, default: int) -> int:
    """An element that is one whole number; ``default`` when absent, -1 when it is something else."""
    found = numbers(dataset, tag)
    if not found:
        return default
    return int(found[0]) if len(found) == 1 and found[0].is_integer() else -1


def items(dataset: Dataset | None, tag: str) -> list[Dataset]:
    """The items of a sequence; empty when absent or damaged."""
    return [value for value in values(dataset, tag) if isinstance(value, Dataset)]


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
