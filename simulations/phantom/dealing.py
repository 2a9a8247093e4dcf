"""Who goes to which hospital: unequal sizes, a case mix of its own for each, every class everywhere if it can be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from common.errors import UsageError
from simulations.phantom.severity import LABELS, PRIOR

SIZE_SPREAD = 0.45  # standard deviation of the logarithm of a hospital's size
MIX_SPREAD = 0.45  # and of each of its class shares


def class_counts(patients: int, counts: tuple[int, ...] | None) -> tuple[int, int, int]:
    """Patients of each class in the order of LABELS; by default in the shares of PRIOR. Raises UsageError."""
    if counts is None:
        first, second = round(patients * PRIOR[0]), round(patients * PRIOR[1])
        return first, second, patients - first - second
    names = ",".join(LABELS)
    if len(counts) != len(LABELS) or min(counts) < 0:
        raise UsageError(
            f"counts {','.join(map(str, counts))} is not valid; expected {len(LABELS)} numbers of at least 0 ({names})",
            "Give one count a class, for example 279,295,124",
        )
    if sum(counts) != patients:
        raise UsageError(
            f"counts {','.join(map(str, counts))} add up to {sum(counts)}; expected {patients}, the number of patients",
            "Correct the counts or the number of patients",
        )
    return counts[0], counts[1], counts[2]


def deal(counts: tuple[int, ...], sites: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How many patients of each class each hospital has: shape ``(sites, classes)``, every hospital at least one.

    Each class gives every hospital two patients first (one if it has fewer than two each to give);
    the rest follows the hospitals' sizes and leanings.
    """
    if sites < 1 or sum(counts) < sites:
        raise UsageError(
            f"{sum(counts)} patients can't be dealt to {sites} sites; expected at least 1 site and a patient for each",
            "Change the number of patients or of sites",
        )
    weight = np.exp(rng.normal(0, SIZE_SPREAD, size=(sites, 1)) + rng.normal(0, MIX_SPREAD, size=(sites, len(counts))))
    table = np.zeros((sites, len(counts)), dtype=np.int64)
    for index, count in enumerate(counts):
        least = min(2, count // sites)
        share = weight[:, index] / weight[:, index].sum() * (count - least * sites)
        table[:, index] = least + _round_to(share, count - least * sites)
    for site in np.flatnonzero(table.sum(axis=1) == 0):
        giver = int(table.sum(axis=1).argmax())
        given = int(table[giver].argmax())
        table[giver, given] -= 1
        table[site, given] += 1
    return table


def _round_to(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers near ``shares`` that add up to ``total`` (largest remainders first)."""
    whole = np.floor(shares).astype(np.int64)
    missing = total - int(whole.sum())
    whole[np.argsort(whole - shares, kind="stable")[:missing]] += 1
    return whole
