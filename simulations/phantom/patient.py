"""One fictional patient, from a seed to an acquired volume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulations.phantom.anatomy import LEVELS, Spine, draw_spine
from simulations.phantom.grid import Grid
from simulations.phantom.render import render
from simulations.phantom.scanner import Scanner, acquire, instance_number, position, stored_values
from simulations.phantom.severity import Severity, draw_severity
from simulations.phantom.surroundings import draw_surroundings


@dataclass(frozen=True)
class Patient:
    """Who is to be scanned where. ``number`` counts from 1 over all hospitals; ``site`` from 0."""

    seed: int
    number: int
    site: int
    label: str
    scanner: Scanner

    @property
    def patient_id(self) -> str:
        return f"PH-{self.number:04d}"

    def generator(self, purpose: int) -> np.random.Generator:
        """Random numbers of this patient alone, so that no other patient and no worker changes them."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, self.number, purpose]))


@dataclass(frozen=True)
class Findings:
    """What a reader would note: it becomes the patient's row in the label table and the header's age and sex."""

    age: int
    sex: str
    level: str
    severity: Severity


@dataclass(frozen=True)
class Scan:
    """Stored values, shape ``(slices from feet to head, rows, columns)``, and where they lie."""

    pixels: NDArray[np.integer]
    grid: Grid


def examine(patient: Patient) -> tuple[Findings, Spine]:
    """Draw a patient's findings and spine; quick, so the label table needs no image."""
    rng = patient.generator(0)
    severity = draw_severity(patient.label, rng)
    severity = replace(severity, age=float(np.clip(severity.age + patient.scanner.older, 18, 95)))
    sex = "F" if rng.random() < 0.35 + 0.3 * (severity.age > 60) else "M"
    spine = draw_spine(severity, sex, rng)
    spine = replace(spine, trabecular=max(20.0, spine.trabecular + patient.scanner.denser))
    level = LEVELS[spine.index]
    return Findings(round(severity.age), sex, level, severity), spine


def place(patient: Patient) -> Grid:
    """The voxels of the patient's scan; the index vertebra's middle is at (0, 0, 0)."""
    return position(patient.scanner, patient.generator(1))


def key_image(patient: Patient) -> int:
    """Instance number of the slice through the middle of the index vertebra."""
    grid = place(patient)
    return instance_number(patient.scanner, round(-grid.origin[2] / grid.step))


def scan(patient: Patient) -> Scan:
    """The CT volume of ``patient`` as the scanner stores it."""
    findings, spine = examine(patient)
    grid = place(patient)
    rng = patient.generator(2)
    around = draw_surroundings(findings.age, findings.sex, rng)
    volume = render(spine, around, grid, rng)
    image = acquire(volume, patient.scanner, (around.half_width / 175) ** 1.5, rng)
    return Scan(stored_values(image, patient.scanner), grid)
