"""What is drawn of a study that goes on: its complete rounds, each read once."""

from __future__ import annotations

import threading
from pathlib import Path

from common import svg
from server.checkpoints import record_file, records
from server.report import figures
from server.report.course import Course, SeenRound

_drawing = threading.Lock()  # matplotlib's settings are the process's


class SoFar:
    """The course of the run whose inner folder is ``folder``, read on and drawn anew as rounds are completed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._course, self._last = Course(), self._stamp(0)
        self._drawn = (0, "")  # after how many rounds

    def ready(self, done: int) -> str | None:
        """The figures after ``done`` rounds if they are drawn already; takes no time."""
        (rounds, drawn), last = self._drawn, self._last
        return drawn if rounds == done and drawn and self._stamp(done) == last else None

    def figures(self) -> str:
        """The figures of all complete rounds, as the report draws them; "" before the first."""
        with self._lock:
            done = self._read_on()
            if self._drawn[0] != done:
                self._drawn = (done, _draw(self._course))
            return self._drawn[1]

    def _read_on(self) -> int:
        """Read what was completed since; the last round that is complete."""
        done = self._course.rounds[-1] if self._course.rounds else 0
        if self._stamp(done) != self._last:  # another run took the folder, or a round is repeated
            self._course, self._drawn, done = Course(), (0, ""), 0
        for record in records(self._folder, SeenRound, done):
            self._course.add(record)
        self._course.sites = sorted({site for each in self._course.status for site in each})
        done = self._course.rounds[-1] if self._course.rounds else 0
        self._last = self._stamp(done)
        return done

    def _stamp(self, round_: int) -> tuple[int, int] | None:
        """Another one whenever the record of a round is written anew; None without one."""
        try:
            status = record_file(self._folder, round_).stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino


def _draw(course: Course) -> str:
    made = []
    with _drawing, svg.style():
        if figures.has_curve(course):
            made.append(figures.curve(course, "accuracy", "accuracy", share=True))
            made.append(figures.curve(course, "log_loss", "log loss", share=False))
        if course.rounds:
            made.append(figures.participation(course))
    return "".join(f"<figure>{one}</figure>" for one in made)
