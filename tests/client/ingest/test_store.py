from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest

from client.ingest import store
from client.ingest.store import CohortWriter, Seal, SealedPlanes, only_ingest, read_file
from client.keys import SiteKey
from common.errors import SiteError

TABLE = np.zeros(2, dtype=[("a", "<i4")])


def seal_of(target) -> Seal:
    return Seal.new(SiteKey.from_secret(b"k" * 32), target.name)


def fill(target, count=5, value=7, seal=None, **files):
    with CohortWriter(target, (2, 4, 4), seal) as writer:
        for index in range(count):
            assert writer.add(np.full((3, 2, 4, 4), value, np.uint8)) == 3 * index
        writer.commit(TABLE, TABLE, {"format": 1}, files)


@pytest.mark.parametrize("count", [1, 5, 400])
def test_planes_are_a_plain_npy_file_whatever_their_number(tmp_path, count):
    fill(tmp_path / "c", count)
    planes = np.load(tmp_path / "c" / "planes.npy", mmap_mode="r", allow_pickle=False)
    assert planes.shape == (3 * count, 2, 4, 4)
    assert (planes == 7).all()
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert set(manifest["sha256"]) == {"examples", "patients"}
    assert manifest["planes"] == 3 * count


@pytest.mark.parametrize("sealed", [False, True])
def test_planes_can_be_read_while_they_are_written(tmp_path, sealed):
    with CohortWriter(tmp_path / "c", (1, 2, 3), seal_of(tmp_path / "c") if sealed else None) as writer:
        for start in (0, 10):
            writer.add(np.arange(start * 6, start * 6 + 60, dtype=np.uint8).reshape(10, 1, 2, 3))
            planes = writer.planes()
            assert planes.shape == (start + 10, 1, 2, 3)
            np.testing.assert_array_equal(planes[np.array([start + 9])].ravel(), (start + 9) * 6 + np.arange(6))


@pytest.mark.parametrize("sealed", [False, True])
def test_only_the_owner_can_read_a_cohort(tmp_path, sealed):
    fill(tmp_path / "c", seal=seal_of(tmp_path / "c") if sealed else None, report=b"text")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "c").iterdir()} == {0o600}


def test_the_same_content_is_never_sealed_to_the_same_bytes(tmp_path):
    fill(tmp_path / "a", seal=seal_of(tmp_path / "c"))
    content = (tmp_path / "a" / "planes.npy.sealed").read_bytes()
    record = 2 * 4 * 4 + 28
    assert len({content[start : start + record] for start in range(0, len(content), record)}) == 15


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # the child writes and ends
@pytest.mark.parametrize("moment", ["os.fsync", "client.ingest.store.fsync_folder"])
@pytest.mark.parametrize("sealed", [False, True])
def test_a_writer_that_is_killed_leaves_the_former_cohort_or_the_new_one_whole(tmp_path, sealed, moment):
    """Killed at its n-th flush, for every n: what is in place is whole, with its report."""
    target = tmp_path / "cohorts" / "c"
    target.parent.mkdir()
    key = SiteKey.from_secret(b"k" * 32)
    fill(target, value=1, seal=seal_of(target) if sealed else None, report=b"\1" * 9)
    seen = set()
    for last in range(1, 20):
        finished = _write_and_die(target, sealed, moment, last)
        if not target.exists():  # between the two renames; the former one is then in .old-
            seen.add("none")
            continue
        seal = Seal.of_folder(target, key) if sealed else None
        value = read_file(target, "report", seal)[0]
        planes = (
            np.load(target / "planes.npy")
            if seal is None
            else SealedPlanes(target / "planes.npy.sealed", (15, 2, 4, 4), seal)[np.arange(15)]
        )
        assert (planes == value).all()
        assert json.loads(read_file(target, "manifest.json", seal))["planes"] == 15
        seen.add(value)
        if finished:
            break
    assert finished
    assert seen == {1, 2}
    with only_ingest(target.parent):
        assert sorted(path.name for path in target.parent.iterdir()) == [".lock", "c"]


def _write_and_die(target, sealed, moment, last) -> bool:
    """Fork a writer of value 2 that ends without clearing up at its ``last``-th flush; whether it got through."""
    pid = os.fork()
    if pid == 0:
        calls = iter(range(1, 1000))
        module, name = (os, "fsync") if moment == "os.fsync" else (store, "fsync_folder")
        real = getattr(module, name)
        setattr(module, name, lambda *args: os._exit(1) if next(calls) >= last else real(*args))
        try:
            fill(target, value=2, seal=seal_of(target) if sealed else None, report=b"\2" * 9)
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def test_a_cohort_replaces_the_former_one_and_leaves_nothing_beside(tmp_path):
    fill(tmp_path / "c", value=1)
    former = np.load(tmp_path / "c" / "planes.npy", mmap_mode="r")
    fill(tmp_path / "c", value=2)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert (np.load(tmp_path / "c" / "planes.npy") == 2).all()
    assert (former == 1).all()  # who has it open keeps what it opened


def test_without_a_commit_nothing_is_left(tmp_path):
    def fail():
        with CohortWriter(tmp_path / "c", (1, 2, 2)) as writer:
            writer.add(np.zeros((1, 1, 2, 2), np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_one_ingest_at_a_time_and_leftovers_are_cleared(tmp_path):
    cohorts = tmp_path / "cohorts"
    with only_ingest(cohorts):
        (cohorts / ".partial-x" / "deep").mkdir(parents=True)
        (cohorts / ".old-x").mkdir()
        (cohorts / "abcd").mkdir()
        with pytest.raises(SiteError, match="another ingest is running"), only_ingest(cohorts):
            pass
    with only_ingest(cohorts):
        assert sorted(path.name for path in cohorts.iterdir()) == [".lock", "abcd"]
    assert stat.S_IMODE(cohorts.stat().st_mode) == 0o700
