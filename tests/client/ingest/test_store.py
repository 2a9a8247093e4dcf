from __future__ import annotations

import json
import stat

import numpy as np
import pytest

from client.ingest.store import CohortWriter, only_ingest
from common.errors import SiteError

TABLE = np.zeros(2, dtype=[("a", "<i4")])


def fill(target, count=5, value=7):
    with CohortWriter(target, (2, 4, 4)) as writer:
        for index in range(count):
            assert writer.add(np.full((3, 2, 4, 4), value, np.uint8)) == 3 * index
        writer.commit(TABLE, TABLE, {"format": 1})


@pytest.mark.parametrize("count", [1, 5, 400])
def test_planes_are_a_plain_npy_file_whatever_their_number(tmp_path, count):
    fill(tmp_path / "c", count)
    planes = np.load(tmp_path / "c" / "planes.npy", mmap_mode="r", allow_pickle=False)
    assert planes.shape == (3 * count, 2, 4, 4)
    assert (planes == 7).all()
    assert set(json.loads((tmp_path / "c" / "manifest.json").read_text())["sha256"]) == {"examples", "patients"}


def test_only_the_owner_can_read_a_cohort(tmp_path):
    fill(tmp_path / "c")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "c").iterdir()} == {0o600}


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
