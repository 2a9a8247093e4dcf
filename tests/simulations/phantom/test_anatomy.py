"""The spine that is drawn has the shape that its severity says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.phantom.anatomy import FRACTURE_LEVELS, LEVELS, Spine, draw_spine
from simulations.phantom.severity import Severity
from simulations.phantom.vertebra import Edges, arch, body

FINE = Edges(0.8, 0.8)


def spine(loss: float, bulge: float, seed: int = 3) -> Spine:
    return draw_spine(Severity(loss, bulge, 50.0), "M", np.random.default_rng(seed))


def box(half: float = 30.0, step: float = 0.8) -> tuple[np.ndarray, ...]:
    axis = np.arange(-half, half, step, dtype=np.float32)
    return axis[None, None, :], axis[None, :, None], axis[:, None, None]


def index_body(drawn: Spine) -> np.ndarray:
    """Share of bone of the index vertebra's body, shape (w, v, u)."""
    u, v, w = np.broadcast_arrays(*box())
    return body(drawn.vertebrae[drawn.index], (u, v, w), FINE, drawn.cortex).whole


@pytest.mark.parametrize("seed", range(6))
def test_levels_stand_on_each_other_without_touching(seed: int) -> None:
    drawn = spine(0.3, 3.0, seed)
    assert [v.level for v in drawn.vertebrae] == list(LEVELS)
    heights = np.array([v.centre[2] for v in drawn.vertebrae])
    assert np.all(np.diff(heights) > 12)
    assert np.all(np.diff(heights) < 48)
    assert drawn.vertebrae[drawn.index].centre.tolist() == [0, 0, 0]
    assert drawn.vertebrae[drawn.index].level in FRACTURE_LEVELS


@pytest.mark.parametrize("seed", range(4))
def test_the_axes_of_a_vertebra_are_orthonormal_and_right_handed(seed: int) -> None:
    for vertebra in spine(0.3, 2.0, seed).vertebrae:
        assert np.allclose(vertebra.turn.T @ vertebra.turn, np.eye(3), atol=1e-12)
        assert np.linalg.det(vertebra.turn) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(5))
def test_a_body_loses_the_height_that_its_severity_says(seed: int) -> None:
    whole, lost = spine(0.0, 0.0, seed), spine(0.5, 0.0, seed)
    full, left = (index_body(s).sum(axis=0) * 0.8 for s in (whole, lost))
    height = whole.vertebrae[whole.index].height
    inside = full > 0.8 * height
    worst = float((1 - left[inside] / full[inside]).max())
    assert 0.33 < worst < 0.75
    assert left.sum() < 0.93 * full.sum()


@pytest.mark.parametrize("bulge", [3.0, 6.0, 9.0])
def test_the_posterior_wall_moves_into_the_canal_by_the_bulge(bulge: float) -> None:
    drawn = spine(0.0, bulge)
    vertebra = drawn.vertebrae[drawn.index]
    assert vertebra.fracture is not None
    still = replace(vertebra.fracture, moves=np.zeros_like(vertebra.fracture.moves), breakage=0.0, shift=0.0)
    axis = np.arange(0, 40, 0.25, dtype=np.float32)
    points = (np.zeros_like(axis), axis, np.full_like(axis, 0.2 * vertebra.height))
    ends = []
    for fracture in (still, replace(still, bulge=0.0)):
        whole = body(replace(vertebra, fracture=fracture), points, FINE, 1.0).whole
        ends.append(float(axis[whole > 0.5].max()))
    assert ends[0] - ends[1] == pytest.approx(bulge, abs=0.2 * bulge + 0.5)


def test_a_burst_widens_the_distance_between_the_pedicles() -> None:
    narrow, wide = spine(0.3, 0.0), spine(0.3, 9.0)
    inner = []
    for drawn in (narrow, wide):
        vertebra = drawn.vertebrae[drawn.index]
        axis = np.arange(0, 30, 0.25, dtype=np.float32)
        points = (axis, np.full_like(axis, vertebra.back + 4), np.full_like(axis, 0.16 * vertebra.height))
        inner.append(float(axis[arch(vertebra, points, FINE, 1.0).whole > 0.5].min()))
    assert 1.0 < inner[1] - inner[0] < 4.0


def test_bone_gets_thinner_and_darker_with_age() -> None:
    def density(age: float) -> float:
        drawn = (draw_spine(Severity(0.1, 0.5, age), "F", np.random.default_rng(seed)) for seed in range(20))
        return float(np.mean([s.trabecular for s in drawn]))

    assert density(25) > density(55) + 30 > density(85) + 60


def test_the_spine_above_a_wedge_leans_forward() -> None:
    upright, bent = spine(0.0, 0.0, 11), spine(0.6, 0.0, 11)
    top = [s.vertebrae[s.index + 1].turn[1, 2] - s.vertebrae[s.index - 1].turn[1, 2] for s in (upright, bent)]
    assert top[1] < top[0] - 0.05
