"""The words of a page, apart from its code: ``texts.LANGUAGE.toml`` of each package, a table of messages a page.

A template says ``t("studies.empty")`` or ``t("studies.left", rounds=3)``; a word that is missing is an error.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

LANGUAGE = "en"


class Texts:
    """Messages by dotted key. ``packages``: whose tables, the later ones before the earlier."""

    def __init__(self, *packages: str, language: str = LANGUAGE) -> None:
        self._found: dict[str, str] = {}
        for package in packages:
            file = resources.files(package).joinpath(f"texts.{language}.toml")
            self._found |= dict(_flat("", tomllib.loads(file.read_text(encoding="utf-8"))))

    def __call__(self, key: str, /, **values: Any) -> str:
        """The message of ``key``, with ``{name}`` in it filled in. Raises KeyError when either is missing."""
        return self._found[key].format(**values)

    def __contains__(self, key: str) -> bool:
        return key in self._found

    def keys(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._found)


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", str(value)
