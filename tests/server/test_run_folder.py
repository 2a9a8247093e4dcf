import json

import pytest

from common.errors import RunError, StudyError
from server.run_folder import RunFolder


def test_a_new_run_removes_the_results_of_the_old_one(tmp_path, small_study):
    folder = RunFolder(tmp_path / "out")
    folder.prepare(small_study(), tmp_path)
    folder.event("round", round=1)
    for path in (folder.results_file, folder.model_file, folder.card_file, folder.root / "report.html"):
        path.write_text("old")
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
