from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest

from client.ingest.geometry import build_series
from client.ingest.headers import read_source
from client.ingest.labels import Labels
from client.ingest.records import Reason
from client.ingest.render import Rendered, Unusable, make_planes, render_job
from client.ingest.select import choose_series
from client.ingest.volume import Slice


def body(slices=12, side=48) -> np.ndarray:
    """A round body with a spine in noisy air, HU."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((side, side)) - side / 2
    plane = np.where(rows**2 + columns**2 < 18**2, 40.0, -1000)
    plane[(rows - 9) ** 2 + columns**2 < 4**2] = 450
    plane[(rows**2 + columns**2 > 15**2) & (plane > 0)] = -100
    return plane + rng.normal(0, 12, (slices, side, side))


@pytest.fixture
def jobs(tmp_path, write_series, make_study):
    """Write ``voxels`` and make the job of the series."""

    def make(voxels, each=None, **changes):
        write_series(tmp_path / "dicom", voxels, each=each)
        headers = [one for path in (tmp_path / "dicom").iterdir() for one in read_source(tmp_path / "dicom", path.name)]
        series, _ = build_series(headers)
        study = make_study(**{"spacing_mm": 1.0, "size": 48} | changes)
        (chosen,), _ = choose_series(series, Labels({"P1": 0}), study)
        return render_job(tmp_path / "dicom", chosen, study)

    return make


def test_a_job_makes_the_planes_of_the_study_and_counts_their_values(jobs):
    job = jobs(body(), planes=3)
    made = make_planes(pickle.loads(pickle.dumps(job)))  # as it travels to a process
    assert isinstance(made, Rendered)
    assert made.planes.shape == (5, 1, 48, 48)
    assert made.planes.dtype == np.uint8
    assert len(job.slices) < 12  # only the slices that the planes touch are read
    assert made.histogram.sum() == len(job.slices) * 48 * 48
    assert made.planes[2, 0, 24, 24] == pytest.approx((1040 / 2000) * 255, abs=8)


def test_a_cut_job_shows_the_same_as_the_whole(jobs):
    cut = make_planes(jobs(body(), planes=2)).planes
    whole = make_planes(jobs(body(), planes=0)).planes
    middle = (len(whole) - 4) // 2
    np.testing.assert_array_equal(cut, whole[middle : middle + 4])


def test_pixels_that_cant_be_read_give_a_reason(jobs):
    job = jobs(body())
    assert make_planes(dataclasses.replace(job, slices=(*job.slices[:-1], Slice("gone")))) == Unusable(
        Reason.PIXELS_UNREADABLE
    )


def test_stored_values_without_their_intercept_give_a_reason(jobs):
    made = make_planes(jobs(body() + 1024))
    assert isinstance(made, Unusable)
    assert made.reason == Reason.IMPLAUSIBLE_HU
    assert "HU" in made.detail


def test_one_slice_with_text_refuses_the_series(jobs):
    voxels = body()
    glyph = np.array([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]], bool)
    for left in range(4, 40, 6):
        voxels[5, 2:8, left : left + 4][glyph] = 3071
    assert make_planes(jobs(voxels)) == Unusable(Reason.BURNED_IN_TEXT, "1 of 12 slices read")
