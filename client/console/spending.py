"""The budget as a picture: what each study added to it, what approved studies will add, and what is left.

Epsilons of studies don't add up, so each piece is what a study added to the whole in the order in which the studies
began: the pieces end where the whole does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from client.budget import study_charges
from client.ledger import Entry, charged
from client.site import Site
from common.privacy.accounting import epsilon
from common.privacy.events import Event
from common.study import Study

Kind = Literal["spent", "promised", "asked"]
MOST_POINTS = 16


@dataclass(frozen=True)
class Piece:
    """A part of the bar, from epsilon ``start`` to ``end``.

    ``kind``: spent already, promised by an approval, or asked for by a study that waits. ``colour``: 0 to 7.
    """

    kind: Kind
    digest: str
    name: str
    start: float
    end: float
    colour: int


@dataclass(frozen=True)
class Point:
    """Epsilon of the cohort after a row of the ledger. ``time``: of the row, ISO 8601."""

    row: int
    time: str
    epsilon: float


def pieces(
    site: Site, entries: Sequence[Entry], names: dict[str, str], approved: Sequence[Study], waiting: Sequence[Study]
) -> list[Piece]:
    """The bar of the site's present cohort. ``names``: of studies by digest, as far as they are known."""
    cohort, delta = site.config.cohort, site.config.policy.max_delta
    events: list[Event] = []
    found: list[Piece] = []
    at = 0.0

    def add(kind: Kind, digest: str, name: str, more: Sequence[Event]) -> None:
        nonlocal at
        events.extend(more)
        end = epsilon(events, delta)
        if end > at:
            colour = next(
                (piece.colour for piece in found if piece.digest == digest), len({p.digest for p in found}) % 8
            )
            found.append(Piece(kind, digest, name or digest[:12], at, end, colour))
            at = end

    for digest in dict.fromkeys(entry.study for entry in entries if entry.cohort == cohort):
        add("spent", digest, names.get(digest, ""), charged(entries, cohort, digest))
    for study in approved:
        begun = {e.round for e in entries if (e.kind, e.cohort, e.study) == ("reserve", cohort, study.digest)}
        left = max(0, study.federation.rounds - len(begun))
        add("promised", study.digest, study.name, study_charges(study, site.config.policy, left))
    for study in waiting:
        add("asked", study.digest, study.name, study_charges(study, site.config.policy, study.federation.rounds))
    return found


def history(site: Site, entries: Sequence[Entry]) -> list[Point]:
    """How the spending of the present cohort grew, at up to ``MOST_POINTS`` charges and the last.

    They are every 1st, 2nd, 4th, ... charge, so that a further charge adds one point and leaves the others.
    """
    cohort, delta = site.config.cohort, site.config.policy.max_delta
    rows = [entry for entry in entries if (entry.kind, entry.cohort) == ("reserve", cohort)]
    stride = 1
    while len(rows) > stride * MOST_POINTS:
        stride *= 2
    found, events, begin = [], list[Event](), 0
    for end in sorted({*range(stride, len(rows) + 1, stride), *([len(rows)] if rows else [])}):
        events += charged(rows[begin:end], cohort)
        begin = end
        found.append(Point(rows[end - 1].id, rows[end - 1].time, epsilon(events, delta)))
    return found
