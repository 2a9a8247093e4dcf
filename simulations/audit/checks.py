"""What the audit found: a check is a sentence that holds or not, with the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

PARTS = {
    "replay": "Replay on neighbouring cohorts",
    "noise": "Noise",
    "draws": "Draws of patients",
    "account": "Ledger",
    "canaries": "Canaries",
    "attacks": "Attacks on the model",
}
Part = Literal["replay", "noise", "draws", "account", "canaries", "attacks"]


@dataclass(frozen=True)
class Check:
    """One finding. ``rule``: what must hold; ``found``: what was measured, in words; ``figures``: for programs."""

    part: Part
    name: str
    rule: str
    passed: bool
    found: str
    figures: dict[str, Any] = field(default_factory=dict)
