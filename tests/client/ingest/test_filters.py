from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest.filters import denoise, noise_hu, normalise


def noisy(sigma: float = 30.0) -> np.ndarray:
    """A square of bone on muscle with air beside it, in HU."""
    plane = np.full((96, 96), 50.0)
    plane[30:60, 30:60] = 700
    plane[:, :12] = -1000
    return (plane + np.random.default_rng(0).normal(0, sigma, plane.shape)).astype(np.float32)


@pytest.mark.parametrize("how", ["median", "non-local-means"])
def test_noise_falls_and_edges_and_values_stay(how):
    plane = noisy()
    smooth = denoise(plane, how)
    assert smooth.dtype == np.float32
    assert smooth[65:, 20:].std() < 0.55 * plane[65:, 20:].std()
    assert abs(smooth[65:, 20:].mean() - 50) < 4
    assert abs(smooth[34:56, 34:56].mean() - 700) < 4
    assert abs(smooth[40:50, 30] - smooth[40:50, 29]).mean() > 550  # the edge of the bone


@pytest.mark.parametrize("how", ["none", "median", "non-local-means"])
def test_a_flat_plane_and_padding_stay_as_they_are(how):
    flat = np.full((40, 41), -1024, dtype=np.float32)
    np.testing.assert_array_equal(denoise(flat, how), flat)


def test_metal_does_not_keep_the_rest_from_being_smoothed():
    plane = noisy()
    plane[70:80, 70:80] = 8000
    smooth = denoise(plane, "non-local-means")
    assert (smooth[70:80, 70:80] == 8000).all()
    assert smooth[65:, 20:60].std() < 0.5 * plane[65:, 20:60].std()


@settings(deadline=None, max_examples=20)
@given(sigma=st.floats(2, 200))
def test_noise_is_estimated_from_the_plane(sigma):
    assert noise_hu(noisy(sigma)) == pytest.approx(sigma, rel=0.12)
    assert noise_hu(np.zeros((9, 9), dtype=np.float32)) == 0


def test_a_z_score_puts_mean_and_deviation_where_it_says():
    share = np.random.default_rng(1).normal(0.3, 0.05, (64, 64)).clip(0, 1).astype(np.float32)
    even = normalise(share, "z-score")
    assert even.mean() == pytest.approx(0.5, abs=1e-3)
    assert even.std() == pytest.approx(1 / 6, rel=0.02)
    np.testing.assert_allclose(normalise(share * 0.5 + 0.2, "z-score"), even, atol=1e-4)  # whatever the window did
    assert (normalise(np.full((8, 8), 0.9, dtype=np.float32), "z-score") == 0.5).all()


def test_equalising_raises_faint_contrast_and_leaves_flat_planes_alone():
    rng = np.random.default_rng(2)
    share = (0.4 + 0.02 * np.kron(rng.integers(0, 2, (16, 16)), np.ones((8, 8)))).astype(np.float32)
    assert np.ptp(normalise(share, "clahe")) > 5 * np.ptp(share)
    flat = np.zeros((64, 64), dtype=np.float32)
    np.testing.assert_array_equal(normalise(flat, "clahe"), flat)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), how=st.sampled_from(["none", "z-score", "clahe"]), side=st.integers(32, 70))
def test_normalised_planes_stay_between_0_and_1(seed, how, side):
    share = np.random.default_rng(seed).random((side, side)).astype(np.float32)
    found = normalise(share, how)
    assert found.shape == share.shape
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
