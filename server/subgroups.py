"""The final model by vendor, thickness, age or sex: accuracy in each band, and its distance from the others'.

Confusion matrices of sites add up. Intervals of accuracy are those of ``server.evaluation`` (Wilson, widened for noise);
of the distance between a band and all other cases, which are other patients, MOVER with these limits, which without
noise is Newcombe's hybrid score interval (Stat. Med. 1998, method 10). No correction is made for looking at many bands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from common.subgroups import BANDS
from server.intervals import proportion
from server.results import Band, Estimate, Subgroup

Confusions = Mapping[str, NDArray[np.float64]]
"""By attribute, [bands, C, C]."""


def subgroups(released: Mapping[str, tuple[Confusions, float]]) -> tuple[Subgroup, ...]:
    """From what each site released, and the standard deviation of the noise on each entry; by attribute."""
    names = [name for name in BANDS if any(name in groups for groups, _ in released.values())]
    return tuple(_subgroup(name, {site: one for site, one in released.items() if name in one[0]}) for name in names)


def _subgroup(name: str, released: Mapping[str, tuple[Confusions, float]]) -> Subgroup:
    total = np.sum([groups[name] for groups, _ in released.values()], axis=0)
    noise = math.hypot(*(std for _, std in released.values()))
    bands = []
    for code, label in enumerate(BANDS[name]):
        this = np.arange(len(total)) == code
        if noise == 0 and not total[this].any():
            continue
        own, others = _accuracy(total[this], noise), _accuracy(total[~this], noise)
        bands.append(Band(name=label, accuracy=own, gap=gap(own, others)))
    return Subgroup(attribute=name, sites=tuple(sorted(released)), bands=tuple(bands))


def _accuracy(confusions: NDArray[np.float64], noise: float) -> Estimate:
    """Of the cases of these bands together."""
    bands, size = confusions.shape[0], confusions.shape[1]
    cases = max(0.0, float(confusions.sum()))
    hits = min(cases, max(0.0, float(np.trace(confusions, axis1=1, axis2=2).sum())))
    return proportion(hits, cases, noise, (bands * size, bands * (size * size - size)))


def gap(one: Estimate, other: Estimate) -> Estimate:
    """The difference ``one`` - ``other`` of two proportions of different patients, or why there is none."""
    cases = min(one.cases, other.cases)
    for part in (one, other):
        if part.value is None or part.low is None or part.high is None:
            return Estimate(cases=cases, note=part.note)
    (first, first_low, first_high), (second, second_low, second_high) = (
        (part.value or 0.0, part.low or 0.0, part.high or 0.0) for part in (one, other)
    )
    step = first - second
    return Estimate(
        value=step,
        low=step - math.hypot(first - first_low, second_high - second),
        high=step + math.hypot(first_high - first, second - second_low),
        cases=cases,
    )
