from __future__ import annotations

import string

import numpy as np
import pydicom
import pytest
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from client.ingest.overlay_text import has_overlaid_text
from simulations.phantom.hospitals import LABELS
from simulations.phantom.patient import Patient, scan
from simulations.phantom.scanner import scanner_of

ALPHABETS = (string.digits + "./:-", string.ascii_uppercase + "^ ", string.ascii_letters + string.digits + " ")
FONTS = ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif")


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    """HU of every sixth slice of a patient from each of six scanners."""
    slices: list[np.ndarray] = []
    for site in range(6):
        scanner = scanner_of(site, np.random.default_rng(site))
        stored = scan(Patient(0, site + 1, site, LABELS[site % len(LABELS)], scanner)).pixels[::6]
        slices += list(np.clip(stored.astype(int) + scanner.intercept, -1024, 10000).astype(np.int16))
    return slices


@pytest.fixture(scope="module")
def real(real_data) -> list[np.ndarray]:
    slices = []
    for path in sorted([*real_data.glob("sts_ct/*/image/*"), *real_data.glob("series/*_20/*")]):
        dataset = pydicom.dcmread(path)
        hounsfield = dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        slices.append(np.clip(hounsfield, -1024, 10000).astype(np.int16))
    return slices


def write(slice_hu, text, place, value, *, size=14, font="DejaVu Sans", smooth=True) -> np.ndarray | None:
    """``slice_hu`` with ``text`` drawn at ``place`` (shares of the room there is); None if it does not fit."""
    face = ImageFont.truetype(font_manager.findfont(font), size)
    rows, columns = slice_hu.shape
    _, _, width, height = face.getbbox(text)
    if width >= columns or height >= rows:
        return None
    image = Image.new("L", (columns, rows))
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L" if smooth else "1"
    draw.text((int(place[0] * (columns - width)), int(place[1] * (rows - height))), text, font=face, fill=255)
    cover = np.asarray(image) / 255
    return np.rint(slice_hu * (1 - cover) + value * cover).astype(np.int16)


def hit_rate(slices, count=200, *, least=10, **how) -> float:
    """Share found of random texts of 6 to 20 characters, ``least`` to 32 pixels high, anywhere in a slice."""
    rng = np.random.default_rng(0)
    hits: list[bool] = []
    while len(hits) < count:
        hounsfield = slices[rng.integers(len(slices))]
        letters = list(ALPHABETS[rng.integers(len(ALPHABETS))])
        text = "".join(rng.choice(letters, rng.integers(6, 21)))
        value = int(rng.choice([1000, 3071, max(int(hounsfield.max()), 600)]))
        size = int(rng.choice([s for s in (10, 12, 14, 16, 20, 24, 32) if s >= least]))
        written = write(hounsfield, text, rng.random(2), value, size=size, font=FONTS[rng.integers(3)], **how)
        if written is not None:
            hits.append(has_overlaid_text(written))
    return float(np.mean(hits))


def test_no_clean_phantom_slice_is_taken_for_text(phantoms):
    assert sum(map(has_overlaid_text, phantoms)) == 0


def test_no_clean_real_slice_is_taken_for_text(real):
    assert len(real) == 441
    assert sum(map(has_overlaid_text, real)) == 0


# The rates that the docstring of the module states, less 5 points: 200 texts say no more.
@pytest.mark.slow
@pytest.mark.parametrize(("smooth", "least", "rate"), [(False, 10, 0.92), (True, 10, 0.67), (True, 14, 0.75)])
@pytest.mark.parametrize("source", ["phantoms", "real"])
def test_drawn_text_is_found_at_the_stated_rate(request, source, smooth, least, rate):
    assert hit_rate(request.getfixturevalue(source), smooth=smooth, least=least) >= rate


def blurred(shape, paint, sigma=0.8) -> np.ndarray:
    """What a scanner makes of ``paint`` (HU above muscle): blurred by 0.8 pixels, noisy, clipped at 3071 HU."""
    image = np.full(shape, -1000.0)
    image[20:-20, 20:-20] = 40
    image = ndimage.gaussian_filter(image + paint, sigma) + np.random.default_rng(0).normal(0, 15, shape)
    return np.clip(image, -1024, 3071).astype(np.int16)


def discs(shape, centres, radius) -> np.ndarray:
    rows, columns = np.indices(shape)
    return sum(((rows - y) ** 2 + (columns - x) ** 2 <= radius**2) for y, x in centres) * 1.0


CLEAN = {
    "a row of calibration rods": 800 * discs((160, 160), [(120, x) for x in range(40, 125, 16)], 5),
    "a row of metal screws": 20000 * discs((160, 160), [(90, x) for x in range(40, 125, 12)], 2.5),
    "electrodes in a line": 20000 * discs((160, 160), [(10, x) for x in range(30, 130, 8)], 1.2),
    "wires one above the other": 20000 * np.kron(np.arange(160)[:, None] % 20 == 0, np.ones((1, 160))),
    "saturated bone": 6000 * (np.random.default_rng(3).random((160, 160)) > 0.995),
    "a fence of metal clips": 20000
    * ((np.indices((160, 160))[1] % 9 == 0) & (abs(np.indices((160, 160))[0] - 80) < 6)),
}


def test_a_name_is_found_where_it_is_usually_drawn(phantoms):
    """Hard-edged and saturated, in a corner: the way consoles burn it in."""
    for place in ((0.02, 0.02), (0.02, 0.98), (0.98, 0.02), (0.98, 0.98)):
        written = [write(one, "PH-0001 DOE", place, 3071, size=14, smooth=False) for one in phantoms[::5]]
        assert all(has_overlaid_text(one) for one in written)


@pytest.mark.parametrize("paint", CLEAN.values(), ids=CLEAN.keys())
def test_what_a_scanner_can_make_is_no_text(paint):
    assert not has_overlaid_text(blurred((160, 160), paint))


def test_an_empty_or_tiny_slice_holds_no_text():
    for shape in ((1, 1), (3, 500), (40, 40)):
        for value in (-1024, 0, 3071, 10000):
            assert not has_overlaid_text(np.full(shape, value, dtype=np.int16))
