"""The time of day."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The time of day in UTC."""
    return datetime.now(UTC)
