"""Distances and partial volumes are what their docstrings say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulations.phantom.implicit import capsule, cover, ellipsoid, smooth_max, smooth_min


def point(*values: float) -> tuple[np.ndarray, ...]:
    return tuple(np.array([value], dtype=np.float32) for value in values)


@given(st.floats(-3, 3), st.floats(0.3, 4))
def test_cover_is_the_share_of_the_voxel_inside(distance: float, width: float) -> None:
    inside = np.mean(distance + width * (np.linspace(-0.5, 0.5, 20001)) < 0)
    assert cover(np.float32([distance]), width)[0] == pytest.approx(inside, abs=2e-3)


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-20, 20))
def test_a_ball_and_a_rod_without_length_are_the_same(x: float, y: float, z: float) -> None:
    exact = np.sqrt((x - 1) ** 2 + (y - 2) ** 2 + (z + 3) ** 2) - 5
    assert ellipsoid(point(x, y, z), (1, 2, -3), (5, 5, 5))[0] == pytest.approx(exact, abs=1e-3)
    assert capsule(point(x, y, z), (1, 2, -3), (1, 2, -3), 5)[0] == pytest.approx(exact, abs=1e-3)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(-10, 10))
def test_a_rod_is_measured_from_the_nearest_point_of_its_axis(x: float, y: float, z: float) -> None:
    along = np.linspace(0, 1, 4001)[:, None] * np.array([4.0, 0.0, 3.0]) + np.array([-1.0, 1.0, 0.0])
    exact = np.min(np.linalg.norm(along - np.array([x, y, z]), axis=1)) - 2
    assert capsule(point(x, y, z), (-1, 1, 0), (3, 1, 3), 2)[0] == pytest.approx(exact, abs=5e-3)


@given(st.floats(-10, 10), st.floats(-10, 10), st.floats(0.5, 5))
def test_a_smooth_union_lies_within_a_quarter_of_the_blend_below_the_minimum(a: float, b: float, blend: float) -> None:
    joined = float(smooth_min(np.float32([a]), np.float32([b]), blend)[0])
    assert min(a, b) - blend / 4 - 1e-4 <= joined <= min(a, b) + 1e-4
    cut = float(smooth_max(np.float32([a]), np.float32([b]), blend)[0])
    assert max(a, b) - 1e-4 <= cut <= max(a, b) + blend / 4 + 1e-4
