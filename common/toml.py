"""Settings written as TOML: top-level keys, then one table a section."""

from __future__ import annotations

import json
from typing import Any


def to_toml(settings: dict[str, Any]) -> str:
    """The TOML of settings whose values are scalars, or sections of scalars."""
    plain: list[str] = []
    tables: list[str] = []
    for key, value in settings.items():
        if isinstance(value, dict):
            tables += ["", *table(key, value)]
        else:
            plain.append(f"{key} = {_scalar(value)}")
    return "\n".join([*plain, *tables]) + "\n"


def table(name: str, values: dict[str, Any]) -> list[str]:
    """The lines of one section."""
    return [f"[{name}]", *(f"{key} = {_scalar(value)}" for key, value in values.items())]


def _scalar(value: str | float | bool) -> str:
    """A TOML scalar. JSON spells them the same way but for two: TOML knows no surrogate pairs, and escapes DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
