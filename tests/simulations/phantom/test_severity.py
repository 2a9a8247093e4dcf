"""The classes overlap as stated, and no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from simulations.phantom.severity import LABELS, LAWS, PRIOR, Law, Severity, ceiling, draw_severity, overlap, posterior


def test_the_best_possible_reader_is_right_in_about_98_of_100_patients() -> None:
    assert 0.965 < ceiling() < 0.985


def test_one_patient_in_five_lies_where_another_class_is_possible() -> None:
    assert 0.15 < overlap() < 0.25


def test_the_ceiling_is_that_of_counting_right_answers_by_hand() -> None:
    rng = np.random.default_rng(5)
    right = 0
    for _ in range(600):
        truth = str(rng.choice(LABELS, p=PRIOR))
        case = draw_severity(truth, rng)
        numbers = (case.height_loss, case.bulge_mm, case.age)
        weights = {}
        for label, share in zip(LABELS, PRIOR, strict=True):
            laws = (LAWS[label].height_loss, LAWS[label].bulge_mm, LAWS[label].age)
            weights[label] = share * np.prod(
                [law.density(np.array([n]))[0] for law, n in zip(laws, numbers, strict=True)]
            )
        right += max(weights, key=weights.__getitem__) == truth
    assert right / 600 == pytest.approx(ceiling(), abs=0.03)


def test_clear_cases_are_clear_and_border_cases_are_not() -> None:
    clear = posterior([Severity(0.5, 0.3, 75), Severity(0.5, 7.0, 40), Severity(0.02, 0.1, 30)])
    assert clear.argmax(axis=1).tolist() == [0, 1, 2]
    assert clear.max(axis=1).min() > 0.99
    border = posterior([Severity(0.17, 0.4, 65), Severity(0.35, 2.2, 55)])
    assert border.max(axis=1).max() < 0.9


@pytest.mark.parametrize("label", LABELS)
def test_densities_integrate_to_one(label: str) -> None:
    for law in (LAWS[label].height_loss, LAWS[label].bulge_mm, LAWS[label].age):
        total, _ = quad(lambda value, law=law: float(law.density(np.array([value]))[0]), law.low, law.high)
        assert total == pytest.approx(1.0, abs=1e-6)


@given(st.floats(-5, 5), st.floats(0.1, 10), st.floats(0.5, 5), st.floats(0.5, 5), st.integers(0, 2**32))
def test_a_draw_lies_in_the_range_of_its_law(low: float, width: float, a: float, b: float, seed: int) -> None:
    law = Law(low, low + width, a, b)
    assert law.low <= law.draw(np.random.default_rng(seed)) <= law.high
