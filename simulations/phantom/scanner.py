"""Hospitals' scanners: sampling, sharpness, noise, and how each writes its numbers down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from simulations.phantom.grid import Grid
from simulations.phantom.implicit import Field

PAD = 8  # pixels added on each side before filtering, so that edges do not wrap around
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
RLE, JPEG2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"


@dataclass(frozen=True)
class Scanner:
    """One hospital's scanner and spine protocol.

    ``field_of_view``, ``thickness``, ``step`` in mm; ``blur``: standard deviation of the point spread
    in the slice, mm; ``edge``: how much the kernel lifts high frequencies (0 none); ``noise``: HU
    in water; ``offset``: usual position of the spine in front of the image's middle, mm.
    """

    manufacturer: str
    model: str
    software: str
    kernel: str
    kvp: int
    exposure: int
    field_of_view: float
    columns: int
    thickness: float
    step: float
    slices: int
    blur: float
    edge: float
    noise: float
    offset: float
    transfer_syntax: str
    intercept: int
    signed: bool
    head_first_order: bool
    file_style: str
    older: float
    """How many years older (younger if negative) this hospital's patients are."""
    denser: float
    """HU added to cancellous bone: calibration and population."""

    @property
    def pixel(self) -> float:
        """Pixel size, mm."""
        return round(self.field_of_view / self.columns, 6)


SCANNERS = (
    Scanner(
        "SIEMENS", "SOMATOM Definition AS+", "syngo CT 2014A", "B60s", 120, 180,
        165.0, 152, 3.0, 2.5, 66, 0.50, 0.9, 26.0, 2.0, EXPLICIT, -1024, False, True, "IM{:05d}", 0.0, 0.0,
    ),
    Scanner(
        "GE MEDICAL SYSTEMS", "LightSpeed VCT", "gmp_vct.42", "STANDARD", 120, 220,
        180.0, 144, 2.5, 2.5, 64, 0.75, 0.15, 17.0, 6.0, IMPLICIT, -1024, True, False, "i{:04d}.CTDC", 4.0, 8.0,
    ),
    Scanner(
        "Philips", "Brilliance 64", "3.5.5", "YB", 140, 150,
        170.0, 128, 3.0, 3.0, 56, 0.65, 0.45, 30.0, 0.0, RLE, -1024, False, True, "CT.{:06d}.dcm", -6.0, -10.0,
    ),
    Scanner(
        "TOSHIBA", "Aquilion ONE", "V7.0", "FC30", 120, 200,
        168.0, 144, 2.0, 2.0, 80, 0.45, 0.7, 36.0, 4.0, JPEG2000, 0, True, False, "{:d}.dcm", 2.0, 4.0,
    ),
    Scanner(
        "SIEMENS", "Sensation 16", "VB42B", "B30s", 120, 110,
        220.0, 160, 3.0, 3.0, 58, 0.90, 0.0, 22.0, 18.0, EXPLICIT, -8192, False, False, "{:08d}", 7.0, -6.0,
    ),
    Scanner(
        "GE MEDICAL SYSTEMS", "Revolution CT", "revo_ct_22bc.50", "BONEPLUS", 100, 140,
        160.0, 160, 2.5, 2.25, 72, 0.42, 1.1, 32.0, -2.0, JPEG2000, -1024, True, True, "Z{:03d}", -3.0, 14.0,
    ),
)  # fmt: skip


def scanner_of(site: int, rng: np.random.Generator) -> Scanner:
    """The scanner of hospital ``site`` (from 0). The first six are as listed; later ones are variations of them."""
    base = SCANNERS[site % len(SCANNERS)]
    if site < len(SCANNERS):
        return base
    return replace(
        base,
        field_of_view=round(base.field_of_view * float(rng.uniform(0.94, 1.08)), 1),
        blur=base.blur * float(rng.uniform(0.85, 1.2)),
        noise=base.noise * float(rng.uniform(0.75, 1.3)),
        offset=base.offset + float(rng.normal(0, 3)),
        older=base.older + float(rng.normal(0, 3)),
        denser=base.denser + float(rng.normal(0, 6)),
    )


def position(scanner: Scanner, rng: np.random.Generator) -> Grid:
    """Where the technologist put the field of view: the index level is in it, not always near its middle."""
    half = scanner.pixel * (scanner.columns - 1) / 2
    middle = (rng.normal(0, 2.0), scanner.offset + 8 + rng.normal(0, 4), rng.normal(0, 9))
    reach = scanner.step * (scanner.slices - 1) / 2
    limit = reach - 42.0  # the whole index vertebra and its neighbours' near halves stay inside
    z = float(np.clip(middle[2], -limit, limit))
    return Grid(
        (float(middle[0]) - half, float(middle[1]) - half, z - reach),
        scanner.pixel, scanner.step, scanner.columns, scanner.slices,
    )  # fmt: skip


def instance_number(scanner: Scanner, index: int) -> int:
    """Number, from 1, that the scanner gives slice ``index`` counted from the feet."""
    return scanner.slices - index if scanner.head_first_order else index + 1


def acquire(volume: Field, scanner: Scanner, size: float, rng: np.random.Generator) -> Field:
    """What the scanner makes of ``volume`` (HU): blurred by its kernel, averaged over its slice, with noise.

    ``size``: how much more than usual the patient attenuates; noise grows with it. The noise has the
    band-pass spectrum of filtered back-projection (Riederer et al., Phys Med Biol 1978).
    """
    padded = np.pad(volume, ((0, 0), (PAD, PAD), (PAD, PAD)), mode="edge")
    rows = padded.shape[1]
    frequency = np.hypot(fft.fftfreq(rows, scanner.pixel)[:, None], fft.rfftfreq(rows, scanner.pixel)[None, :]).astype(
        np.float32
    )
    transfer = _transfer(frequency, scanner)
    white = rng.standard_normal(padded.shape, dtype=np.float32)
    spectrum = np.sqrt(frequency / np.float32(frequency.max()) + np.float32(0.02)) * transfer
    grain = fft.irfft2(fft.rfft2(white) * spectrum, s=padded.shape[1:])
    image = fft.irfft2(fft.rfft2(padded) * transfer, s=padded.shape[1:])
    level = scanner.noise * size * float(rng.uniform(0.85, 1.2)) / float(grain.std())
    overlap = 0.5 * max(0.0, scanner.thickness / scanner.step - 1.0)
    image = _average(image, 0.06 + overlap) + np.float32(level) * _average(grain, overlap)
    cropped: Field = image[:, PAD:-PAD, PAD:-PAD]
    return cropped


def stored_values(image: Field, scanner: Scanner) -> NDArray[np.integer]:
    """Integers as the scanner stores them (slope 1): 12 bits of HU from -1024 to 3071, shifted by its intercept."""
    units = np.clip(np.rint(image), -1024, 3071).astype(np.int32) - scanner.intercept
    return units.astype(np.int16 if scanner.signed else np.uint16)


def _transfer(frequency: Field, scanner: Scanner) -> Field:
    """Modulation transfer of the kernel: Gaussian, with a lift at middle frequencies for sharp kernels."""
    base = np.exp(np.float32(-2 * (np.pi * scanner.blur) ** 2) * frequency**2)
    lift = 1 + np.float32(scanner.edge) * (1 - np.exp(np.float32(-2 * (np.pi * 1.1) ** 2) * frequency**2))
    return np.asarray(base * lift, dtype=np.float32)


def _average(stack: Field, share: float) -> Field:
    """Mix each slice with its neighbours: a slice thicker than its step overlaps them."""
    side = np.float32(share / (1 + 2 * share))
    mixed = stack * (1 - 2 * side)
    mixed[1:] += side * stack[:-1]
    mixed[:-1] += side * stack[1:]
    mixed[0] += side * stack[0]
    mixed[-1] += side * stack[-1]
    return mixed
