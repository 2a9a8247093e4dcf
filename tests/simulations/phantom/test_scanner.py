"""Scanners blur, add noise and store as their profiles say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.phantom.scanner import SCANNERS, Scanner, acquire, instance_number, position, scanner_of, stored_values


def water(scanner: Scanner) -> np.ndarray:
    return np.zeros((12, scanner.columns, scanner.columns), dtype=np.float32)


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.model)
def test_water_has_the_noise_of_the_profile_and_no_offset(scanner: Scanner) -> None:
    image = acquire(water(scanner), scanner, 1.0, np.random.default_rng(1))
    assert image.mean() == pytest.approx(0, abs=0.05 * scanner.noise)
    assert 0.5 * scanner.noise < image.std() < 1.25 * scanner.noise


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.model)
def test_noise_is_correlated_as_in_filtered_back_projection(scanner: Scanner) -> None:
    image = acquire(water(scanner), scanner, 1.0, np.random.default_rng(2))
    power = (np.abs(np.fft.fft2(image)) ** 2).mean(axis=0)
    near = np.hypot(*np.meshgrid(np.fft.fftfreq(scanner.columns), np.fft.fftfreq(scanner.columns)))
    low, middle = power[(near > 0) & (near < 0.04)].mean(), power[(near > 0.12) & (near < 0.25)].mean()
    assert middle > 2 * low


def test_white_noise_would_fail_the_spectrum_test() -> None:
    white = np.random.default_rng(2).standard_normal((12, 128, 128))
    power = (np.abs(np.fft.fft2(white)) ** 2).mean(axis=0)
    near = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    assert power[(near > 0.12) & (near < 0.25)].mean() < 1.5 * power[(near > 0) & (near < 0.04)].mean()


def test_a_sharp_kernel_keeps_an_edge_steeper_than_a_soft_one() -> None:
    steps = []
    for kernel in ("B60s", "B30s"):
        scanner = replace(next(s for s in SCANNERS if s.kernel == kernel), field_of_view=160.0, columns=160, noise=0.0)
        volume = water(scanner)
        volume[:, :, 80:] = 1000
        image = acquire(volume, scanner, 1.0, np.random.default_rng(0))
        steps.append(float(np.abs(np.diff(image[5, 80])).max()))
        assert image[5, 80, 40] == pytest.approx(0, abs=2)
        assert image[5, 80, 120] == pytest.approx(1000, abs=2)
    assert steps[0] > 1.3 * steps[1]


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.model)
def test_stored_values_give_back_the_units_through_the_rescale_tags(scanner: Scanner) -> None:
    image = np.array([[[-3000.0, -1024.0, -0.4, 40.6, 3071.0, 9000.0]]], dtype=np.float32)
    stored = stored_values(image, scanner)
    assert stored.dtype == (np.int16 if scanner.signed else np.uint16)
    assert (stored.astype(int) + scanner.intercept).ravel().tolist() == [-1024, -1024, 0, 41, 3071, 3071]


@pytest.mark.parametrize("scanner", SCANNERS, ids=lambda s: s.model)
def test_the_index_vertebra_always_lies_well_inside_the_scan(scanner: Scanner) -> None:
    for seed in range(200):
        grid = position(scanner, np.random.default_rng(seed))
        assert grid.z[0] < -38
        assert grid.z[-1] > 38
        assert abs(grid.x.mean()) < 15


def test_instance_numbers_run_from_one_in_either_direction() -> None:
    for scanner in SCANNERS:
        numbers = [instance_number(scanner, index) for index in range(scanner.slices)]
        assert sorted(numbers) == list(range(1, scanner.slices + 1))


def test_hospitals_differ_in_every_way_that_real_ones_do() -> None:
    scanners = [scanner_of(site, np.random.default_rng(0)) for site in range(5)]
    for name in ("model", "kernel", "pixel", "noise", "blur", "file_style", "older", "denser"):
        assert len({getattr(s, name) for s in scanners}) >= 4, name
    assert len({s.transfer_syntax for s in scanners}) == 4
    assert len({s.intercept for s in scanners}) == 3
    assert len({s.signed for s in scanners}) == len({s.head_first_order for s in scanners}) == 2


def test_the_seventh_hospital_is_a_variation_of_the_first() -> None:
    first, seventh = scanner_of(0, np.random.default_rng(0)), scanner_of(6, np.random.default_rng(0))
    assert seventh.model == first.model
    assert seventh.noise != first.noise
