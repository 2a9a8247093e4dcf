"""What a model said of each patient of a site: sealed in the site's folder, it leaves only as counts.

Two models are compared on the patients that both were asked about, matched by the pseudonym that only the site's key
can make. What a site adds to a comparison is ``Pair``: how many patients one model judges better than the other, and
sums over all of them. Pairs of sites and folds add up. They are exact, as are the counts of a comparison whatever the
site's policy says: for simulated sites only, where one person holds all the data.
"""

from __future__ import annotations

import io
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from client.keys import SealBroken, load_or_make_key
from client.training.evaluate import Decisions, decide
from common.errors import DataError
from common.files import write_atomic

if TYPE_CHECKING:
    from pathlib import Path

    from client.ingest.cohort import Cohort
    from client.site import Site
    from common.metrics import Counts
    from common.models.resnet import Network
    from common.study import Study

FOLDER = "judgements"
_ARRAYS = ("pseudonyms", "held_out", "patients", "labels", "probabilities")


@dataclass(frozen=True, eq=False)
class Judgement:
    """``decisions`` on m patients. ``pseudonyms`` uint8 [m, 16]; ``held_out`` bool [m]: kept out of training."""

    pseudonyms: NDArray[np.uint8]
    held_out: NDArray[np.bool_]
    decisions: Decisions

    @classmethod
    def of(cls, model: Network, cohort: Cohort, study: Study, *, everybody: bool = False) -> Self:
        """Ask ``model`` about the held-out patients, or about ``everybody`` where it was trained on nobody here."""
        asked = np.flatnonzero(cohort.held_out | everybody)
        groups = cohort.patient_examples(asked)
        return cls(cohort.patients["pseudonym"][asked], cohort.held_out[asked], decide(model, cohort, groups, study))

    def counts(self, bins: int, *, everybody: bool = False) -> Counts:
        """Counts over the held-out patients, or over ``everybody`` who was asked about."""
        kept = (self.held_out | everybody)[self.decisions.patients]
        found = self.decisions
        return Decisions(found.patients[kept], found.labels[kept], found.probabilities[kept]).counts(bins)

    def right(self) -> dict[bytes, float]:
        """Share of right predictions of each held-out patient, by pseudonym."""
        found = self.decisions
        hits = (found.probabilities.argmax(axis=1) == found.labels) * found.weights
        shares = np.bincount(found.patients, hits, minlength=len(self.pseudonyms))
        return {self.pseudonyms[row].tobytes(): float(shares[row]) for row in np.flatnonzero(self.held_out).tolist()}

    def save(self, site: Site) -> str:
        """Seal it in the site's folder. Returns its name, 16 random hex digits."""
        buffer = io.BytesIO()
        found = self.decisions
        np.savez(
            buffer,
            pseudonyms=self.pseudonyms,
            held_out=self.held_out,
            patients=found.patients,
            labels=found.labels,
            probabilities=found.probabilities,
        )
        name = secrets.token_hex(8)
        path = _path(site, name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, load_or_make_key(site.key_file).seal(buffer.getvalue(), _context(name)))
        return name

    @classmethod
    def load(cls, site: Site, name: str) -> Self:
        """Open what ``save`` sealed. Raises DataError if it is missing or altered."""
        path = _path(site, name)
        try:
            content = load_or_make_key(site.key_file).open(path.read_bytes(), _context(name))
            arrays = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, SealBroken):
            raise DataError(f"'{path}' is missing or damaged", "Give a new --out, and run again") from None
        pseudonyms, held_out, *decisions = (arrays[array] for array in _ARRAYS)
        return cls(pseudonyms, held_out, Decisions(*decisions))


def is_saved(site: Site, name: str) -> bool:
    """Whether the site holds this judgement."""
    return _path(site, name).is_file()


def _path(site: Site, name: str) -> Path:
    return site.folder / FOLDER / f"{name}.sealed"


def _context(name: str) -> bytes:
    return f"judgement {name}".encode()


@dataclass(frozen=True)
class Pair:
    """Two models on the same held-out ``cases``, who are patients.

    ``better``: patients whom the first model judges better; ``worse``: whom the second does. ``first`` and
    ``second``: sums of the patients' shares of right predictions; where each has one label, numbers of patients.
    """

    cases: int = 0
    better: int = 0
    worse: int = 0
    first: float = 0.0
    second: float = 0.0

    @classmethod
    def of(cls, first: Judgement, second: Judgement) -> Self:
        """Compare on the patients that both were asked about, at one site."""
        one, other = first.right(), second.right()
        both = [(one[who], other[who]) for who in one.keys() & other.keys()]
        return cls(
            len(both),
            sum(a > b + 1e-9 for a, b in both),
            sum(b > a + 1e-9 for a, b in both),
            sum(a for a, _ in both),
            sum(b for _, b in both),
        )

    def __add__(self, other: Pair) -> Pair:
        """Over both groups of patients."""
        return Pair(
            self.cases + other.cases,
            self.better + other.better,
            self.worse + other.worse,
            self.first + other.first,
            self.second + other.second,
        )

    @property
    def difference(self) -> float | None:
        """Difference of the accuracies, first less second; None without cases."""
        return (self.first - self.second) / self.cases if self.cases else None

    @property
    def whole(self) -> bool:
        """Whether every patient was judged right or wrong as a whole, so that the accuracies are proportions."""
        return abs(self.first - self.second - (self.better - self.worse)) < 1e-6
