import json
import subprocess
import sys

import pytest

from common.errors import RunError, StudyError
from server.run_folder import Launch, RunFolder


def test_a_new_run_removes_the_results_of_the_old_one(tmp_path, small_study):
    folder = RunFolder(tmp_path / "out")
    folder.prepare(small_study(), tmp_path)
    folder.event("round", round=1)
    for path in (folder.results_file, folder.model_file, folder.card_file, folder.root / "report.html"):
        path.write_text("old")
    for name in ("rounds", "checkpoints"):
        (folder.inner / name).mkdir()
        (folder.inner / name / "00001").write_text("old")
    folder.note_launch(Launch(3, 99))
    folder.prepare(small_study(), tmp_path)
    assert [p.name for p in folder.root.rglob("*") if p.is_file()] == ["study.json"]


def test_a_study_other_than_the_one_launched_is_refused(tmp_path, small_study):
    folder, study = RunFolder(tmp_path / "out"), small_study()
    folder.prepare(study, tmp_path)
    assert folder.study(study.digest) == study
    with pytest.raises(RunError, match="not the one that was launched"):
        folder.study("0" * 64)


def test_initial_weights_come_from_beside_the_study_file(tmp_path, small_study):
    (tmp_path / "w.safetensors").write_bytes(b"weights")
    folder = RunFolder(tmp_path / "out")
    folder.prepare(small_study(model={"initial": "w.safetensors"}), tmp_path)
    assert folder.initial_file.read_bytes() == b"weights"
    folder.prepare(small_study(), tmp_path)
    assert folder.initial_file is None
    with pytest.raises(StudyError, match="can't be read"):
        folder.prepare(small_study(model={"initial": "none-such.safetensors"}), tmp_path)


def test_events_are_whole_lines(tmp_path, small_study):
    folder = RunFolder(tmp_path / "out")
    folder.prepare(small_study(), tmp_path)
    folder.event("round", round=1, note="two\nlines")
    folder.event("end", outcome="finished")
    events = [json.loads(line) for line in folder.events_file.read_text().splitlines()]
    assert [e["event"] for e in events] == ["round", "end"]


def test_an_event_cut_off_by_a_crash_is_passed_over_and_the_next_ones_are_read(tmp_path, small_study):
    folder = RunFolder(tmp_path / "out")
    folder.prepare(small_study(), tmp_path)
    folder.event("round", round=1)
    with folder.events_file.open("a") as file:
        file.write('{"event": "rep')
    events, position = folder.events()
    assert [event["event"] for event in events] == ["round"]
    folder.event("resumed", round=2)
    folder.event("begin", round=2)
    assert [event["event"] for event in folder.events(position)[0]] == ["resumed", "begin"]


HOLD = """
import sys
from pathlib import Path
from server.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).alone():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.failure(
    "two processes that would run one study in one folder",
    seen='"another process works in" the folder',
    ends="the first goes on; the second has asked nobody",
    ledgers="nothing",
)
def test_one_process_at_a_time_works_in_a_run_folder_and_a_killed_one_leaves_it_free(tmp_path, small_study):
    folder = RunFolder(tmp_path / "out")
    folder.prepare(small_study(), tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunError, match="another process works in"), folder.alone(0.2):
            pass
        process.kill()
        process.wait()
    with folder.alone(0.2):
        pass
