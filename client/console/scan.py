"""A scan that somebody started from the page: the same ingest as ``fedct-site ingest``, in a thread.

One at a time; another process's ingest is refused by the lock of the cohorts. It can be stopped, and then leaves the
former cohort as it was, as any failed ingest does.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Literal

from client.ingest.report import IngestReport
from client.site import Site
from common.errors import FedctError, RunError
from common.study import Study

State = Literal["none", "running", "done", "stopped", "failed"]


class _Stopped(Exception):  # noqa: N818 - no error
    """Somebody asked the scan to stop."""


@dataclass(frozen=True)
class Progress:
    """How the last scan stands. ``done`` of ``total`` in files, each counted for header and pixels; 0 of 0 at first.

    ``by``: who started it. ``said``: what went wrong, and what to do about it. ``report``: once it is done.
    """

    state: State = "none"
    study: str = ""
    digest: str = ""
    by: str = ""
    done: int = 0
    total: int = 0
    said: str = ""
    remedy: str = ""
    report: IngestReport | None = None


class Scan:
    """The scan of a site, if there is one."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, site: Site, study: Study, by: str) -> None:
        """Ingest the site's data for ``study``. Raises RunError while a scan is under way."""
        with self._lock:
            if self.progress.state == "running":
                raise RunError(f"a scan for study '{self.progress.study}' is under way", "Wait for it, or stop it")
            self._stop.clear()
            self.progress = Progress("running", study.name, study.digest, by)
            self._thread = threading.Thread(target=self._run, args=(site, study), name="scan", daemon=True)
            self._thread.start()

    def stop(self, seconds: float | None = 0.0) -> None:
        """Have the scan end at its next file, and wait for that up to ``seconds``, None for as long as it takes."""
        self._stop.set()
        if self._thread is not None and seconds != 0.0:
            self._thread.join(seconds)

    def _run(self, site: Site, study: Study) -> None:
        from client.ingest import ingest  # here: it brings the decoders, which no other page needs

        try:
            report = ingest(site, study, self._step)
        except _Stopped:
            self._end("stopped")
        except FedctError as error:
            self._end("failed", error.message, error.remedy)
        except Exception as error:  # whatever it is, the page says that the scan is over
            self._end("failed", f"unexpected {type(error).__name__}", "Run 'fedct-site ingest --debug' for the trace")
        else:
            self.progress = replace(self.progress, state="done", report=report)

    def _step(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise _Stopped
        self.progress = replace(self.progress, done=done, total=total)

    def _end(self, state: State, said: str = "", remedy: str = "") -> None:
        self.progress = replace(self.progress, state=state, said=said, remedy=remedy)
