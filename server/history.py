"""What the events of a run say, taken in one at a time, so that a long run need not be read anew at each look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from server.run_folder import RunFolder, event_start, parsed

Doing = Literal["working", "ok", "late", "refused", "failed", "gone"]
_OF_A_ROUND = tuple(event_start(kind) for kind in ("asked", "reply", "gone", "back"))  # which its end makes void
_ENDING = tuple(event_start(kind) for kind in ("round", "begin", "resumed", "end"))


@dataclass
class Place:
    """One site in the round that is under way. ``seconds``: until it answered. ``since``: when it was asked, UTC."""

    site: str
    doing: Doing
    since: str = ""
    reason: str = ""
    seconds: float | None = None


@dataclass(frozen=True)
class Round:
    """A round that counts. ``missed``: (site, status, reason) of who did not take part. ``accuracy``: see ``model_round``."""

    number: int
    time: str
    seconds: float
    took_part: int
    missed: tuple[tuple[str, str, str], ...]
    accuracy: float | None
    model_round: int | None


@dataclass(frozen=True)
class Hello:
    """What a site last said of itself: whether it would take part, and why not. ``release``: of fedct, "" if not said."""

    site: str
    time: str
    ready: bool
    reason: str
    release: str


@dataclass
class History:
    """How a run stands by its own account.

    ``number``: the round under way, 0 before the first. ``final``: it is the last evaluation. ``places``: who was asked
    in it, by name. ``end``: the event that ended the newest attempt. ``attempts``: resumptions since a round was last
    complete.
    """

    rounds: list[Round] = field(default_factory=list)
    number: int = 0
    final: bool = False
    started: str = ""
    places: dict[str, Place] = field(default_factory=dict)
    hellos: dict[str, Hello] = field(default_factory=dict)
    end: Mapping[str, Any] | None = None
    attempts: int = 0

    @property
    def done(self) -> int:
        """The last round that counts."""
        return self.rounds[-1].number if self.rounds else 0

    def copy(self) -> History:
        """As it stands now, for somebody who looks while more is taken in."""
        places = {name: replace(place) for name, place in self.places.items()}
        return replace(self, rounds=list(self.rounds), places=places, hellos=dict(self.hellos))

    def take(self, event: Mapping[str, Any]) -> None:
        """Take one event in; one of an unknown kind changes nothing."""
        handler = getattr(self, f"_{event['event']}", None)
        if handler is not None:
            handler(event)

    def _begin(self, _event: Mapping[str, Any]) -> None:
        self._clear()

    def _resumed(self, _event: Mapping[str, Any]) -> None:
        self._clear()
        self.end, self.attempts = None, self.attempts + 1

    def _hello(self, event: Mapping[str, Any]) -> None:
        self.hellos[event["site"]] = Hello(
            event["site"], event["time"], bool(event["ready"]), event["reason"], event.get("release", "")
        )

    def _asked(self, event: Mapping[str, Any]) -> None:
        if not self.places:
            self.started = event["time"]
        self.number, self.final = event["round"], event["what"] == "evaluate"
        self.places[event["site"]] = Place(event["site"], "working", event["time"])

    def _gone(self, event: Mapping[str, Any]) -> None:
        if event["site"] in self.places:
            self.places[event["site"]].doing = "gone"

    def _back(self, event: Mapping[str, Any]) -> None:
        if event["site"] in self.places:
            self.places[event["site"]].doing = "working"

    def _reply(self, event: Mapping[str, Any]) -> None:
        place = self.places.setdefault(event["site"], Place(event["site"], "working"))
        place.doing, place.reason, place.seconds = event["status"], event["reason"], event["seconds"]

    def _round(self, event: Mapping[str, Any]) -> None:
        while self.rounds and self.rounds[-1].number >= event["round"]:  # done again, it counts once
            self.rounds.pop()
        self.rounds.append(
            Round(
                event["round"],
                event["time"],
                event["seconds"],
                event["took_part"],
                tuple((site, status, reason) for site, status, reason in event["missed"]),
                event["accuracy"],
                event["model_round"],
            )
        )
        self.attempts = 0
        self._clear()

    def _end(self, event: Mapping[str, Any]) -> None:
        self.end = self.end or event
        self._clear()

    def _clear(self) -> None:
        self.places, self.number, self.final, self.started = {}, 0, False, ""


class Reader:
    """The history of a run folder, read on from where it was read before."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._position, self._file = folder, 0, 0
        self.history = History()

    def look(self) -> History:
        """The history with all that was written since."""
        try:
            status = self._folder.events_file.stat()
        except FileNotFoundError:
            return self.history
        if status.st_ino != self._file or status.st_size < self._position:  # another run took the folder
            self._file, self._position, self.history = status.st_ino, 0, History()
        if status.st_size > self._position:
            lines, self._position = self._folder.lines(self._position)
            for event in parsed(_standing(lines)):
                self.history.take(event)
        return self.history


def _standing(lines: list[bytes]) -> Iterator[bytes]:
    """The lines that still say something: of a round that is over, nine in ten are of who was asked and answered."""
    ended = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].startswith(_ENDING)), 0)
    return (line for at, line in enumerate(lines) if at >= ended or not line.startswith(_OF_A_ROUND))


def history(folder: RunFolder) -> History:
    """The whole history of a run."""
    return Reader(folder).look()


def moment(text: str) -> datetime:
    """An event's time."""
    return datetime.fromisoformat(text)
