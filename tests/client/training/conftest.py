"""A cohort in memory and a study around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from common.study import Study, parse_study

BASE: dict[str, Any] = {
    "format": 1,
    "name": "test",
    "task": {"classes": ["a", "b"]},
    "input": {"windows": [{"low": -200, "high": 800}], "spacing_mm": 2.0, "size": 32},
    "model": {},
    "training": {"learning_rate": 0.05, "local_steps": 3, "batch_patients": 4},
    "privacy": {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "clip": 1.0, "sampling_rate": 0.5},
    "federation": {"rounds": 2},
}


@dataclass
class MemoryExamples:
    """Bright squares are class b; every patient has ``views`` examples."""

    patients: int = 8
    views: int = 3

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = np.repeat(np.arange(self.patients) % 2, self.views).astype(np.int64)
        self._pixels = rng.integers(0, 80, (len(self.labels), 3, 32, 32)).astype(np.uint8)
        self._pixels[self.labels == 1, :, 10:22, 10:22] += 150

    def pixels(self, indices):
        return self._pixels[indices]

    @property
    def groups(self):
        return list(np.arange(len(self.labels)).reshape(self.patients, self.views))


@pytest.fixture
def examples() -> MemoryExamples:
    return MemoryExamples()


@pytest.fixture
def study_of():
    def make(**sections: Any) -> Study:
        content = {**BASE, **{k: {**BASE[k], **v} for k, v in sections.items()}}
        if sections.get("privacy", {}).get("unit") == "off":
            content["privacy"] = {"unit": "off"}
        return parse_study(content)

    return make
