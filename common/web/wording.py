"""Times as words."""

from __future__ import annotations

from datetime import UTC, datetime


def when(moment: datetime) -> str:
    """Date and time of day in UTC, to the minute."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def ago(moment: datetime) -> str:
    """How long ago, in the largest unit."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}\u00a0{unit} ago"
    return "just now" if seconds < 10 else f"{seconds:.0f}\u00a0s ago"
