"""A patient follows from seed and number; the class acts through the severity alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulations.phantom import patient as module
from simulations.phantom.patient import Patient, examine, key_image, place, scan
from simulations.phantom.scanner import SCANNERS
from simulations.phantom.severity import LABELS, Severity

SMALL = replace(SCANNERS[1], columns=64, step=5.0, slices=30)


def test_patients_of_two_classes_and_one_severity_are_the_same_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "draw_severity", lambda _label, _rng: Severity(0.2, 2.0, 60.0))
    images = [scan(Patient(1, 7, 0, label, SMALL)).pixels for label in LABELS]
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])


def test_another_severity_or_number_is_another_image() -> None:
    first = scan(Patient(1, 7, 0, "burst", SMALL)).pixels
    assert not np.array_equal(first, scan(Patient(1, 7, 0, "normal", SMALL)).pixels)
    assert not np.array_equal(first, scan(Patient(1, 8, 0, "burst", SMALL)).pixels)


def test_the_key_image_is_the_slice_nearest_to_the_index_vertebra() -> None:
    for scanner in SCANNERS:
        for number in range(1, 30):
            person = Patient(3, number, 0, "normal", scanner)
            index = int(np.abs(place(person).z).argmin())
            numbers = {index + 1, scanner.slices - index}
            assert key_image(person) in numbers


def test_older_hospitals_have_older_patients_within_the_span_of_life() -> None:
    ages = []
    for older in (-8.0, 8.0):
        scanner = replace(SMALL, older=older)
        ages.append([examine(Patient(2, n, 0, "compression", scanner))[0].age for n in range(1, 80)])
    assert np.mean(ages[1]) - np.mean(ages[0]) == pytest.approx(16, abs=2)
    assert min(map(min, ages)) >= 18
    assert max(map(max, ages)) <= 95
