from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import supervisor
from common.supervisor import LONGEST_WAIT, Service, supervise, wait_before

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
COUNT = "import sys; open(sys.argv[1], 'a').write('x')"
FAMILY = "import subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True); time.sleep(60)"


@pytest.fixture
def service(tmp_path):
    def make(code: str, *arguments: str, name: str = "one") -> Service:
        command = (sys.executable, "-c", code, *arguments)
        return Service(name, command, os.environ, tmp_path, tmp_path / f"{name}.log")

    return make


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def running(service):
    """Supervise in a thread; ``stop`` ends it."""
    told, notes, threads = threading.Event(), [], []

    def start(*services: Service):
        thread = threading.Thread(target=supervise, args=(services, told, lambda event: notes.append(str(event))))
        thread.start()
        threads.append(thread)
        return notes

    def stop():
        told.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()

    start.stop = stop
    yield start
    stop()


def started(notes) -> list[psutil.Process]:
    return [psutil.Process(int(note.split()[-1])) for note in list(notes) if "started" in note]


def test_a_service_that_is_killed_is_back(running, service):
    notes = running(service("import time; time.sleep(60)"))
    until(lambda: len(notes) == 1)
    started(notes)[0].kill()
    until(lambda: len(notes) == 3)
    assert "ended with code -9; next start in 1 s" in notes[1]
    running.stop()
    assert notes[-1] == "one stopped"


def test_a_service_that_keeps_ending_is_started_ever_later(running, service, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "wait_before", lambda failures: failures / 100)
    notes = running(service(COUNT, str(tmp_path / "count")))
    until(lambda: sum("ended" in note for note in notes) == 3)
    running.stop()
    assert len((tmp_path / "count").read_text()) >= 3


def test_an_end_that_has_one_reason_is_explained(running, service):
    one = replace(service("raise SystemExit(3)"), meanings={3: "the key is not admitted"})
    notes = running(one)
    until(lambda: len(notes) > 1)
    assert notes[1].startswith("one ended with code 3 (the key is not admitted); next start in 1 s")


@given(st.integers(1, 10**9))
def test_the_wait_grows_to_ten_seconds_and_no_further(failures):
    assert wait_before(1) == 1
    assert wait_before(failures) <= wait_before(failures + 1) <= LONGEST_WAIT


def test_told_to_stop_everything_is_gone_also_what_does_not_listen_or_was_started_by_it(
    running, service, tmp_path, monkeypatch
):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.5)
    notes = running(service(STUBBORN, name="stubborn"), service(FAMILY, name="family"))
    until(lambda: (tmp_path / "family.log").exists() and (tmp_path / "family.log").read_text().endswith("\n"))
    until(lambda: (tmp_path / "stubborn.log").read_text() == "up\n")
    family = [*started(notes), psutil.Process(int((tmp_path / "family.log").read_text()))]
    assert len(family) == 3
    running.stop()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert alive == []
    assert "stubborn did not stop within 0 s and is killed" in notes


def test_what_a_service_started_is_ended_before_its_successor_starts(running, service, tmp_path):
    notes = running(service(FAMILY, name="family"))
    until(lambda: (tmp_path / "family.log").exists() and (tmp_path / "family.log").read_text().endswith("\n"))
    grandchild = psutil.Process(int((tmp_path / "family.log").read_text()))
    started(notes)[0].kill()
    until(lambda: not grandchild.is_running())


def test_a_program_that_is_not_there_ends_what_was_started_and_is_reported(service):
    notes: list[str] = []
    absent = Service("absent", ("/no/such/program",), os.environ, Path("/"), Path(os.devnull))
    with pytest.raises(FileNotFoundError):
        supervise(
            [service("import time; time.sleep(60)"), absent], threading.Event(), lambda event: notes.append(str(event))
        )
    assert notes[-1] == "one stopped"


SUPERVISOR = """
import os, sys
from pathlib import Path
from common.supervisor import Service, supervise, told_by_signals
code = "import time; print('up', flush=True); time.sleep(60)"
folder = Path(sys.argv[1])
service = Service("one", (sys.executable, "-c", code), os.environ, folder, folder / "log")
supervise([service], told_by_signals(), lambda text: print(text, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_services_end_with_their_supervisor_however_it_ends(tmp_path, number):
    command = [sys.executable, "-c", SUPERVISOR, tmp_path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        child = psutil.Process(int(process.stdout.readline().split()[-1]))
        until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text() == "up\n")
        process.send_signal(number)
        _, alive = psutil.wait_procs([child], timeout=10)
        for left in alive:
            left.kill()
        assert alive == []
        assert process.wait(10) == (-9 if number == signal.SIGKILL else 0)


def test_a_log_of_ten_megabytes_is_turned_over_once(service, running, tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LOG_BYTES", 10)
    (tmp_path / "one.log").write_text("0123456789 old")
    running(service("print('new', flush=True); import time; time.sleep(60)"))
    until(lambda: (tmp_path / "one.log").exists() and (tmp_path / "one.log").read_text() == "new\n")
    assert (tmp_path / "one.log.1").read_text() == "0123456789 old"


def test_a_log_that_grows_beyond_its_limit_is_begun_anew_while_its_service_runs(
    running, service, tmp_path, monkeypatch
):
    monkeypatch.setattr(supervisor, "LOG_BYTES", 1000)
    talk = "import itertools, time\nfor n in itertools.count(): print('x' * 100, n, flush=True); time.sleep(0.01)"
    notes = running(service(talk))
    until((tmp_path / "one.log.5").exists, 60)
    running.stop()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["one.log", *(f"one.log.{number}" for number in range(1, 6))]
    assert [note.split()[1].strip(",") for note in notes] == ["started", "stopped"]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
