from __future__ import annotations

import numpy as np
import pytest

from client.ingest.distributions import distributions, kernel, vendor


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("GE MEDICAL SYSTEMS", "GE"),
        ("Philips", "Philips"),
        ("TOSHIBA", "Canon/Toshiba"),
        ("CANON_MEC", "Canon/Toshiba"),
        ("FUJIFILM Healthcare Corporation", "Hitachi/Fujifilm"),
        ("UIH", "United Imaging"),
        ("Neusoft Medical Systems", "Neusoft"),
        ("", "not given"),
        ("  ", "not given"),
        ("GERTRUDE MILLER", "other"),
        ("St. Planted Hospital", "other"),
    ],
)
def test_vendors_are_named_from_a_closed_list(given, shown):
    assert vendor(given) == shown


@pytest.mark.parametrize(
    "code", ["B30f", "Br40d\\3", "H31s", "I31f\\2", "STANDARD", "BONEPLUS", "FC08", "B", "YA", "EC", "B_SOFT_B"]
)
def test_codes_of_kernels_are_shown(code):
    assert kernel(f" {code} ") == code


@pytest.mark.parametrize("text", ["Miller", "Br40d Miller", "19770611", "B30f\\Miller", "<b>", "Ed", "Li", "B30f\nx"])
def test_other_text_in_the_place_of_a_kernel_is_not_shown(text):
    assert kernel(text) == "other"


def test_series_are_counted_by_value(make_series):
    series = [
        make_series(spacing=(0.703125, 0.703125), thickness=1.0, vendor="GE MEDICAL SYSTEMS", kernel="BONE"),
        make_series(spacing=(0.7, 0.7), thickness=0.0, step=1.25, vendor="GE MEDICAL SYSTEMS", kernel="Miller"),
        make_series(spacing=(0.98, 0.98), thickness=2.5, vendor="Planted"),
    ]
    found = distributions(series, np.array([-1000, 0, 1000]), np.array([3, 4]))
    assert found["spacing_mm"] == {"0.7": 2, "1.0": 1}
    assert found["slice_spacing_mm"] == {"1.2": 1, "2.0": 2}
    assert found["thickness_mm"] == {"not given": 1, "1.0": 1, "2.5": 1}
    assert found["vendor"] == {"GE": 2, "other": 1}
    assert found["kernel"] == {"B30f": 1, "BONE": 1, "other": 1}
    assert found["hu"] == {"edges": [-1000, 0, 1000], "counts": [3, 4]}
