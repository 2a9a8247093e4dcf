from __future__ import annotations

import numpy as np
import pydicom
import pytest

from client.ingest.plausibility import BIN_HU, BINS, LOWEST_HU, count_hu, implausible
from simulations.phantom.hospitals import LABELS
from simulations.phantom.patient import Patient, scan
from simulations.phantom.scanner import scanner_of

REAL = (
    [f"sts_ct/STS_{number}/image" for number in ("002", "003", "008", "012", "019", "024", "025", "042")]
    + ["series/philips_brilliance_lidc0314_20", "series/siemens_mct_j2k_20"]
)  # fmt: skip


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    """HU of every second slice of a patient from each of six scanners."""
    volumes = []
    for site in range(6):
        scanner = scanner_of(site, np.random.default_rng(site))
        stored = scan(Patient(0, site + 1, site, LABELS[site % len(LABELS)], scanner)).pixels[::2]
        volumes.append(stored.astype(float) + scanner.intercept)
    return volumes


@pytest.fixture(scope="module")
def real(real_data) -> list[np.ndarray]:
    return [real_series(real_data / part) for part in REAL]


def real_series(folder) -> np.ndarray:
    """HU of every third slice."""
    volume = []
    for path in sorted(folder.iterdir())[::3]:
        dataset = pydicom.dcmread(path)
        volume.append(dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
    return np.stack(volume)


def judged(volume) -> str | None:
    return implausible(count_hu(volume))


def test_every_phantom_is_plausible(phantoms):
    assert [judged(volume) for volume in phantoms] == [None] * 6


def test_every_real_series_is_plausible_also_in_parts(real):
    assert [judged(volume) for volume in real] == [None] * len(REAL)
    for volume in real:  # few slices, or a part of the body without the air around
        assert judged(volume[:2]) is None
        assert judged(volume[-2:]) is None


ATTACKS = {
    "intercept left out": lambda hu: hu + 1024,
    "intercept twice": lambda hu: hu - 1024,
    "intercept with the wrong sign": lambda hu: hu + 2048,
    "slope doubled": lambda hu: 2 * (hu + 1024) - 1024,
    "slope halved": lambda hu: 0.5 * (hu + 1024) - 1024,
    "sign turned": lambda hu: -hu,
    "inverted": lambda hu: 3071 - (hu + 1024),
    "signed values read as unsigned": lambda hu: np.where(hu < 0, hu + 65536, hu),
    "bytes swapped": lambda hu: hu.astype("<i2").byteswap().astype(float),
    "air 400 HU too high": lambda hu: hu + 400,
    "one value everywhere": np.zeros_like,
    "standardised uptake values": lambda hu: np.clip((hu + 1000) / 200, 0, 12),
    "activity in Bq/ml": lambda hu: np.where(hu > -300, 3000 + 4 * hu, 2).clip(0, 32767),
    "8-bit picture": lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255),
}


@pytest.mark.parametrize("source", ["phantoms", "real"])
@pytest.mark.parametrize("name", ATTACKS)
def test_values_that_are_no_hounsfield_units_are_refused(request, source, name):
    volumes = request.getfixturevalue(source)
    assert [k for k, volume in enumerate(volumes) if judged(ATTACKS[name](volume)) is None] == []


@pytest.mark.parametrize("part", ["odd/wrong_modality"])
def test_other_kinds_of_images_are_refused_by_their_values(real_data, part):
    by_series: dict[str, list] = {}
    for path in sorted((real_data / part).rglob("*")):
        if path.is_file() and (path.read_bytes()[128:132] == b"DICM"):
            dataset = pydicom.dcmread(path)
            if "PixelData" in dataset:
                by_series.setdefault(str(dataset.SeriesInstanceUID), []).append(
                    dataset.pixel_array * float(dataset.get("RescaleSlope", 1))
                    + float(dataset.get("RescaleIntercept", 0))
                )
    assert by_series
    for images in by_series.values():
        assert judged(np.stack(images)) is not None


def test_what_was_measured_is_said(phantoms):
    assert judged(phantoms[0] + 400).startswith("air near -")
    assert judged(np.zeros((3, 8, 8))) == "all values near 5 HU"
    assert judged(np.full((3, 8, 8), -3000)) == "no values in the range of CT"


def test_lungs_that_fill_the_view_are_plausible():
    """Expiration in a small field of view: no air around the body, but airways."""
    rng = np.random.default_rng(0)
    lung, airway, wall = rng.normal(-720, 60, 60_000), rng.normal(-985, 20, 3_000), rng.normal(40, 20, 50_000)
    assert judged(np.concatenate([lung, airway, wall])) is None
    assert judged(np.concatenate([lung, wall])) is not None


def test_padding_without_its_tag_is_not_air():
    rng = np.random.default_rng(0)
    body = np.concatenate([rng.normal(40, 20, 50_000), rng.normal(-100, 20, 20_000), rng.normal(700, 200, 2_000)])
    assert judged(np.concatenate([body, np.full(90_000, -3024)])) is None
    assert judged(np.concatenate([body + 1024, np.full(90_000, -3024)])) is not None


def test_values_are_counted_in_their_bins():
    counts = count_hu(np.array([-3000, LOWEST_HU, LOWEST_HU + BIN_HU - 0.5, 0, 2999, 3000, 9999.0]))
    assert counts.shape == (BINS,)
    assert np.flatnonzero(counts).tolist() == [0, 1, 121, 420, 421]
    assert counts[[0, 1, 121, 420, 421]].tolist() == [1, 2, 1, 1, 2]
