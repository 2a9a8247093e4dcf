from __future__ import annotations

import os
from datetime import UTC, datetime

import numpy as np
import pytest

from common.errors import RunError
from server import checkpoints
from server.checkpoints import Checkpoint
from server.results import Participation, RoundRecord

STUDY = "5" * 64
STARTED = datetime(2026, 3, 1, tzinfo=UTC)


def record(round_: int) -> RoundRecord:
    parts = (Participation(site="a", status="ok", seconds=1.5), Participation(site="b", status="late", reason="busy"))
    return RoundRecord(round=round_, seconds=2.0, bytes_down=8, bytes_up=4, participation=parts)


def after(round_: int) -> Checkpoint:
    """A run after this many rounds; its weights are all the number of the round."""
    return Checkpoint(
        study=STUDY,
        seed=7,
        started=STARTED,
        round=round_,
        weights=np.full(5, round_, np.float32),
        state={"velocity": np.arange(3, dtype=np.float32) * round_},
        records=tuple(record(number) for number in range(1, round_ + 1)),
        sites=("a", "b"),
        epsilon={"a": 0.5 * round_},
        evaluation={"a": "noised"},
    )


@pytest.fixture
def run(tmp_path):
    """The inner folder of a run with three complete rounds."""
    for round_ in (1, 2, 3):
        checkpoints.save(tmp_path, after(round_))
    return tmp_path


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_is_read_is_what_was_written(run):
    found, written = checkpoints.newest(run, STUDY), after(3)
    assert np.array_equal(found.weights, written.weights)
    assert found.weights.dtype == np.float32
    assert {name: list(one) for name, one in found.state.items()} == {"velocity": [0.0, 3.0, 6.0]}
    for name in ("study", "seed", "started", "round", "records", "sites", "epsilon", "evaluation"):
        assert getattr(found, name) == getattr(written, name)


def test_the_last_two_are_kept_and_every_record(run):
    assert names(run) == [
        *("checkpoints/00002.safetensors", "checkpoints/00003.safetensors"),
        *("rounds/00001.json", "rounds/00002.json", "rounds/00003.json"),
    ]


def test_a_run_without_a_complete_round_has_none(tmp_path):
    assert checkpoints.newest(tmp_path, STUDY) is None
    assert list(checkpoints.records(tmp_path, RoundRecord)) == []


def damage_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_the_description(path):
    path.write_bytes(path.read_bytes().replace(b'\\"round\\":3', b'\\"round\\":2'))


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = {
    "a bit of the weights turned": damage_a_byte,
    "the description was edited": damage_the_description,
    "it is cut off": cut,
    "it is empty": lambda path: path.write_bytes(b""),
    "it is something else": lambda path: path.write_bytes(b"\x00" * 200),
    "it can't be read": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.failure(
    "the newest checkpoint: cut off, altered, empty, unreadable",
    seen="the run goes on one round earlier",
    ends="finished; that round is repeated",
    ledgers="that round charged once more",
)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(run, name):
    DAMAGE[name](run / "checkpoints" / "00003.safetensors")
    found = checkpoints.newest(run, STUDY)
    assert found.round == 2
    assert list(found.weights) == [2.0] * 5
    assert found.records == after(2).records


def test_a_record_that_was_changed_undoes_every_round_from_it(run):
    path = run / "rounds" / "00003.json"
    path.write_text(path.read_text().replace('"late"', '"ok"'))
    assert checkpoints.newest(run, STUDY).round == 2
    (run / "rounds" / "00001.json").unlink()
    with pytest.raises(RunError, match="no checkpoint"):
        checkpoints.newest(run, STUDY)


@pytest.mark.failure(
    "all checkpoints",
    seen="which files do not hold, and why",
    ends="failed before anybody is asked",
    ledgers="nothing",
)
def test_when_none_holds_the_run_does_not_start_from_nothing(run):
    for path in (run / "checkpoints").iterdir():
        cut(path)
    with pytest.raises(RunError, match=r"no checkpoint .*00003.*00002"):
        checkpoints.newest(run, STUDY)


def test_the_checkpoint_of_another_study_is_refused(run):
    with pytest.raises(RunError, match="is of study 555555555555"):
        checkpoints.newest(run, "6" * 64)


def test_a_repeated_round_replaces_the_record_of_its_first_attempt(run):
    half = record(4).model_copy(update={"bytes_up": 99})
    (run / "rounds" / "00004.json").write_text(half.model_dump_json())  # killed before its checkpoint
    assert checkpoints.newest(run, STUDY).round == 3
    assert list(checkpoints.records(run, RoundRecord)) == [record(1), record(2), record(3)]
    checkpoints.save(run, after(4))
    assert checkpoints.newest(run, STUDY).records == after(4).records
    assert list(checkpoints.records(run, RoundRecord, after=3)) == [record(4)]


def test_what_a_killed_process_left_half_written_is_removed(run):
    (run / "checkpoints" / ".00004.safetensors.x").write_bytes(b"half")
    (run / "rounds" / ".00004.json.x").write_bytes(b"half")
    checkpoints.save(run, after(4))
    assert not [name for name in names(run) if "/." in name]


def test_saving_a_round_reads_no_record_of_earlier_ones(run):
    for number in (1, 2, 3):
        (run / "rounds" / f"{number:05d}.json").rename(run / f"{number}")
    checkpoints.save(run, after(4))
    for number in (1, 2, 3):
        (run / f"{number}").rename(run / "rounds" / f"{number:05d}.json")
    assert checkpoints.newest(run, STUDY).records == after(4).records


def test_a_record_that_was_changed_before_the_next_round_is_still_found(run):
    path = run / "rounds" / "00001.json"
    path.write_text(path.read_text().replace('"late"', '"ok"'))
    checkpoints.save(run, after(4))
    with pytest.raises(RunError, match=r"00004.*records of rounds 1 to 4"):
        checkpoints.newest(run, STUDY)


@pytest.mark.parametrize("name", DAMAGE)
def test_a_round_after_a_damaged_checkpoint_is_saved_all_the_same(run, name):
    DAMAGE[name](run / "checkpoints" / "00003.safetensors")
    checkpoints.save(run, after(4))
    assert checkpoints.newest(run, STUDY).records == after(4).records


@pytest.mark.failure(
    "the coordinator's disk, full at a checkpoint",
    seen='"no space left", exit code 9',
    ends="failed; `resume` goes on once there is space",
    ledgers="that round charged once more",
)
def test_a_disk_that_is_full_leaves_the_rounds_before(run, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save(run, after(4))
    monkeypatch.undo()
    assert checkpoints.newest(run, STUDY).round == 3
