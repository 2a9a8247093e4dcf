"""Mechanism events: what was done to the patients, from which epsilon is derived.

The ledger stores events, never epsilon: an event stays true when the accountant improves. The unit of
every event is one patient of one site's cohort; neighbouring cohorts differ by one patient, added or
removed. ``sigma`` is always the noise multiplier: the standard deviation of the noise divided by the
L2 sensitivity to one patient.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import UsageError
from common.study import canonical_json

UNIT = "patient"
MAX_COUNT = 10_000_000  # steps or releases in one event; far above any study
MIN_SIGMA, MAX_SIGMA = 0.01, 1e6  # outside, there is no privacy to speak of, or nothing but noise
MIN_RATE = 1e-9


@dataclass(frozen=True)
class SubsampledGaussian:
    """``steps`` DP-SGD steps: each patient drawn with probability ``q``, noise ``sigma`` times the clip.

    Poisson sampling over patients; ``q = 1`` takes every patient, which is the plain Gaussian mechanism.
    Raises UsageError unless 0.01 <= sigma <= 1e6, 1e-9 <= q <= 1 and 1 <= steps <= 10,000,000.
    """

    sigma: float
    q: float
    steps: int

    def __post_init__(self) -> None:
        _check_number("SubsampledGaussian.sigma", self.sigma, MIN_SIGMA, MAX_SIGMA)
        _check_number("SubsampledGaussian.q", self.q, MIN_RATE, 1.0)
        _check_count("SubsampledGaussian.steps", self.steps)


@dataclass(frozen=True)
class Gaussian:
    """``count`` releases of a vector of counts over all patients, with noise ``sigma`` times its sensitivity.

    Raises UsageError unless 0.01 <= sigma <= 1e6 and 1 <= count <= 10,000,000.
    """

    sigma: float
    count: int = 1

    def __post_init__(self) -> None:
        _check_number("Gaussian.sigma", self.sigma, MIN_SIGMA, MAX_SIGMA)
        _check_count("Gaussian.count", self.count)


Event = SubsampledGaussian | Gaussian


def event_to_dict(event: Event) -> dict[str, Any]:
    """The event as a JSON object that ``event_from_dict`` reads back."""
    if isinstance(event, SubsampledGaussian):
        return {
            "kind": "subsampled-gaussian",
            "unit": UNIT,
            "sigma": float(event.sigma),
            "q": float(event.q),
            "steps": event.steps,
        }
    return {"kind": "gaussian", "unit": UNIT, "sigma": float(event.sigma), "count": event.count}


def event_from_dict(content: Mapping[str, Any]) -> Event:
    """Read back ``event_to_dict``. Raises UsageError on an unknown kind or unit, a missing key or an extra one."""
    fields = dict(content)
    kind, unit = fields.pop("kind", None), fields.pop("unit", None)
    if unit != UNIT:
        raise UsageError(f"event unit = {unit!r}: expected '{UNIT}'")
    expected = {"subsampled-gaussian": {"sigma", "q", "steps"}, "gaussian": {"sigma", "count"}}.get(str(kind))
    if expected is None:
        raise UsageError(f"event kind = {kind!r}: expected 'subsampled-gaussian' or 'gaussian'")
    if set(fields) != expected:
        raise UsageError(f"event '{kind}' has keys {sorted(fields)}: expected {sorted(expected)}")
    return SubsampledGaussian(**fields) if kind == "subsampled-gaussian" else Gaussian(**fields)


def events_to_json(events: Iterable[Event]) -> str:
    """The events as one canonical JSON array, in order."""
    return canonical_json([event_to_dict(event) for event in events])


def events_from_json(text: str) -> tuple[Event, ...]:
    """Read back ``events_to_json``. Raises UsageError if it is anything else."""
    try:
        content = json.loads(text)
    except ValueError:
        raise UsageError("events are not JSON; expected an array of mechanism events") from None
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise UsageError("events are not an array of objects; expected an array of mechanism events")
    return tuple(event_from_dict(item) for item in content)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{name} = {value!r}: expected a number in {low:g}..{high:g}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise UsageError(f"{name} = {value!r}: expected a whole number in 1..{MAX_COUNT}")
