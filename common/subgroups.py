"""Bands by which an evaluation may be broken down: the one closed list that sites count in and the coordinator adds up.

A band is all that is ever kept of a patient's age or sex. Code 0 of each attribute: not stated, or not one value.
"""

from __future__ import annotations

from typing import Literal

Attribute = Literal["vendor", "thickness", "age", "sex"]

NOT_STATED = "not stated"
BANDS: dict[str, tuple[str, ...]] = {
    "vendor": (NOT_STATED, "Siemens", "GE", "Philips", "Canon/Toshiba", "other"),
    "thickness": (NOT_STATED, "up to 1.5 mm", "over 1.5 to 3 mm", "over 3 mm"),
    "age": (NOT_STATED, "under 40", "40 to 59", "60 to 79", "80 and over"),
    "sex": (NOT_STATED, "female", "male", "other"),
}
"""Attribute to its bands, by code."""
AGE_EDGES = (40, 60, 80)
"""Whole years at which a band of age begins, after the first."""
THICKNESS_EDGES = (1.5, 3.0)
"""Millimetres up to which a band of slice thickness goes, before the last."""
