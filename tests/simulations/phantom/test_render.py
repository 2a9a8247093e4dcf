"""A rendered patient has the tissues of a patient, where they belong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.phantom.anatomy import Spine, draw_spine
from simulations.phantom.grid import Grid
from simulations.phantom.render import render
from simulations.phantom.severity import Severity
from simulations.phantom.surroundings import Surroundings, draw_surroundings

GRID = Grid((-75.0, -70.0, -40.0), 1.5, 2.0, 100, 41)


def patient(loss: float = 0.05, bulge: float = 0.0) -> tuple[Spine, Surroundings]:
    spine = draw_spine(Severity(loss, bulge, 45.0), "M", np.random.default_rng(4))
    return spine, draw_surroundings(45, "M", np.random.default_rng(4))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    spine, around = patient()
    return render(spine, around, GRID, np.random.default_rng(9))


def at(volume: np.ndarray, place: np.ndarray, reach: int = 1) -> float:
    """Mean HU of the voxels around a point in patient coordinates."""
    i, j, k = (round((p - o) / s) for p, o, s in zip(place, GRID.origin, (1.5, 1.5, 2.0), strict=True))
    return float(volume[k - reach : k + reach + 1, j - reach : j + reach + 1, i - reach : i + reach + 1].mean())


def test_units_stay_in_the_range_of_ct(volume: np.ndarray) -> None:
    assert volume.dtype == np.float32
    assert volume.shape == (41, 100, 100)
    assert volume.min() >= -1001
    assert 600 < volume.max() < 1800


def test_marrow_canal_and_wall_have_their_densities(volume: np.ndarray) -> None:
    spine, _ = patient()
    index = spine.vertebrae[spine.index]
    assert at(volume, index.to_patient(0, -2, 0), 2) == pytest.approx(spine.trabecular, abs=60)
    assert -70 < at(volume, index.to_patient(0, index.back + index.canal[1] / 2, 0)) < 60
    plane = volume[20]
    rim = [round((c - o) / 1.5) for c, o in zip(index.to_patient(0, 0, 0)[:2], GRID.origin[:2], strict=True)]
    front = plane[: rim[1], rim[0]]
    assert front[-round((index.half_depth + 3) / 1.5) :].max() > spine.trabecular + 200


def test_there_is_fat_muscle_and_bone_and_discs_between_bodies(volume: np.ndarray) -> None:
    spine, _ = patient()
    for low, high in ((-125, -80), (35, 75), (500, 1800)):
        assert np.mean((volume > low) & (volume < high)) > 0.005
    below, above = spine.vertebrae[spine.index], spine.vertebrae[spine.index + 1]
    middle = (below.to_patient(0, 0, below.height / 2) + above.to_patient(0, 0, -above.height / 2)) / 2
    assert 40 < at(volume, middle, 0) < 130


def test_a_retropulsed_fragment_narrows_the_canal() -> None:
    canal = []
    for bulge in (0.0, 8.0):
        spine, around = patient(0.3, bulge)
        index = spine.vertebrae[spine.index]
        assert index.fracture is not None
        still = replace(index, fracture=replace(index.fracture, shift=0.0, moves=np.zeros((9, 3))))
        spine = replace(spine, vertebrae=(*spine.vertebrae[: spine.index], still, *spine.vertebrae[spine.index + 1 :]))
        units = render(spine, around, GRID, np.random.default_rng(9))
        heights = np.linspace(-0.1, 0.35, 8) * index.height
        canal.append(max(at(units, still.to_patient(0, still.back + 4, w), 0) for w in heights))
    assert canal[0] < 120
    assert canal[1] > 200


def test_a_block_holds_the_points_of_a_turned_box_and_none_outside_the_volume() -> None:
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = GRID.block(np.array([3.0, 6.0, 2.0]), turn, (10.0, 4.0, 6.0))
    assert found is not None
    region, (u, v, w) = found
    x, y, z = np.broadcast_arrays(
        GRID.x[region[2]][None, None, :], GRID.y[region[1]][None, :, None], GRID.z[region[0]][:, None, None]
    )
    assert np.allclose(u, y - 6, atol=1e-4)
    assert np.allclose(v, 3 - x, atol=1e-4)
    assert np.allclose(w, z - 2, atol=1e-4)
    assert u.min() <= -9
    assert u.max() >= 9
    assert GRID.block(np.array([500.0, 0.0, 0.0]), turn, (5.0, 5.0, 5.0)) is None
