"""The bands of a patient that the site permits to be kept, and nothing else of what they were made from.

Vendor and thickness are in the headers that ingest has anyway. Age and sex are read here, for the series of the cohort
alone and where ``policy.subgroups`` names them; the value is turned into its band at once, and what can't be read, or
differs between a patient's series, is not stated.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pydicom
from numpy.typing import NDArray

from client.ingest.distributions import vendor
from client.ingest.headers import quiet
from client.ingest.sources import open_source
from common.subgroups import AGE_EDGES, BANDS, THICKNESS_EDGES

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from client.ingest.geometry import Series

_TAGS = ["PatientAge", "PatientBirthDate", "PatientSex", "StudyDate", "SpecificCharacterSet"]
_OLDEST = 120
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 1 / 52.18, "D": 1 / 365.25}
_SEX = {"F": "female", "M": "male", "O": "other"}


def dtype_of(names: Sequence[str]) -> np.dtype[np.void]:
    """A row a patient, a code of ``BANDS`` for each attribute."""
    return np.dtype([(name, "u1") for name in names])


def make_table(root: Path, series: Sequence[Series], rows: Sequence[int], names: Sequence[str]) -> NDArray[np.void]:
    """The bands ``names`` of each patient. ``rows`` [series]: which patient each series is of, from 0 without gaps."""
    table = np.zeros(max(rows) + 1, dtype=dtype_of(names))
    seen = np.zeros(len(table), dtype=bool)
    for one, row in zip(series, rows, strict=True):
        found = _bands(root, one, names)
        for name in names:
            code = BANDS[name].index(found[name])
            table[name][row] = code if not seen[row] or table[name][row] == code else 0
        seen[row] = True
    return table


def _bands(root: Path, series: Series, names: Sequence[str]) -> dict[str, str]:
    first = series.headers[0]
    found = {"vendor": vendor_band(first.vendor), "thickness": thickness_band(first.thickness)}
    if {"age", "sex"} & set(names):
        person = _person(root, first.path)
        found["age"] = age_band(
            _text(person, "PatientAge"), _text(person, "PatientBirthDate"), _text(person, "StudyDate")
        )
        found["sex"] = _SEX.get(_text(person, "PatientSex"), BANDS["sex"][0])
    return found


def vendor_band(manufacturer: str) -> str:
    """The band of a Manufacturer."""
    name = vendor(manufacturer)
    bands = BANDS["vendor"]
    if not manufacturer.strip():
        return bands[0]
    return name if name in bands else bands[-1]


def thickness_band(thickness: float) -> str:
    """The band of a SliceThickness in mm; 0 is not given."""
    if not thickness > 0:
        return BANDS["thickness"][0]
    return BANDS["thickness"][1 + sum(round(thickness, 2) > edge for edge in THICKNESS_EDGES)]


def age_band(age: str, birth: str, study: str) -> str:
    """The band of PatientAge (PS3.5: three digits and D, W, M or Y), else of the years from PatientBirthDate to StudyDate."""
    years = None
    if re.fullmatch(r"\d{3}[DWMY]", age):
        years = int(age[:3]) * _YEARS[age[3]]
    elif re.fullmatch(r"\d{8}", birth) and re.fullmatch(r"\d{8}", study):
        years = int(study[:4]) - int(birth[:4]) - (study[4:] < birth[4:])
    if years is None or not 0 <= years <= _OLDEST:
        return BANDS["age"][0]
    return BANDS["age"][1 + sum(years >= edge for edge in AGE_EDGES)]


def _person(root: Path, path: str) -> Dataset | None:
    """The few attributes of one file; None where it can't be read, which ingest has said elsewhere."""
    with contextlib.suppress(Exception), quiet(), open_source(root, path) as stream:
        stream.seek(0)
        return pydicom.dcmread(stream, force=True, stop_before_pixels=True, specific_tags=_TAGS)
    return None


def _text(person: Dataset | None, keyword: str) -> str:
    with contextlib.suppress(Exception):  # a damaged value
        return str(getattr(person, keyword, "") or "").strip()
    return ""
