"""What travels between coordinator and site: record names, schemas, version.

Plain data only: each message is a flat mapping of strings, integers, floats and byte strings that
fits a Flower ConfigRecord, beside the arrays of at most one ArrayRecord. Both sides parse with the same
strict schema; an unknown key or version is refused, so that a coordinator and a site of unlike versions
part with a code before anything is trained or charged.

Version 2: the model goes down as its shared part, with the base only where a site does not hold it yet;
weights may be float16 with an exponent (``common.wire``); SCAFFOLD's correction goes down.
"""

from __future__ import annotations

import re
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import RunError
from common.metrics import Counts, vector_length
from common.study import Study, study_from_json
from common.subgroups import BANDS
from common.wire import EXPONENTS

VERSION = 2
CONFIG = "fedct"  # name of the ConfigRecord
MODEL = "model"  # name of the ArrayRecord that goes down
UPDATE = "update"  # name of the ArrayRecord that comes up
ARRAY = "flat"  # in either: the shared weights, and their change
BASE = "base"  # in the former: the weights that go down once, always float32
CORRECTION = "correction"  # in the former: what SCAFFOLD adds to each gradient
BASE_MISSING = "base-missing"  # the code of a site that was not sent the base and does not hold it

SITE_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
CODE = r"^[a-z0-9-]{0,40}$"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    version: Literal[2] = 2

    def to_config(self) -> dict[str, Any]:
        """The flat mapping that travels."""
        return self.model_dump()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Parse what arrived. Raises RunError (code only, no content echoed) when it does not fit."""
        try:
            return cls.model_validate(dict(config))
        except ValidationError as error:
            keys = sorted({str(item["loc"][0]) for item in error.errors() if item["loc"]})
            raise RunError(
                f"a {cls.__name__} message does not fit version {VERSION}: {', '.join(keys) or 'content'}"
            ) from None


class Request(_Message):
    """From the coordinator: train or evaluate this model for this study and round.

    ``round`` counts from 1; an evaluation of the final model carries the last round. ``base``: digest of
    the weights that go down once (``common.models.parts``), empty where no model goes with the message.
    ``exponent``, ``correction_exponent``: of the shared weights and of the correction (``common.wire``).
    """

    study: str = Field(max_length=1_000_000)
    round: int = Field(ge=1)
    seed: int = Field(ge=0, le=2**62)
    base: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    exponent: int = Field(default=0, ge=-EXPONENTS, le=EXPONENTS)
    correction_exponent: int = Field(default=0, ge=-EXPONENTS, le=EXPONENTS)

    def parse_study(self) -> Study:
        """The study carried, validated and in canonical form."""
        return study_from_json(self.study)


class Hello(_Message):
    """From a site: who it is, and whether it would take part in this study."""

    site: str = Field(pattern=SITE_NAME)
    release: str = Field(max_length=40)
    ready: bool
    code: str = Field(default="", pattern=CODE)


class Reply(_Message):
    """From a site after training or evaluating.

    ``status`` and ``code`` are constants, never text from data. ``counts``: the released vector of
    ``Counts`` as little-endian float64 bytes, empty when withheld; ``counts_std``: standard
    deviation of the noise on each entry. ``subgroups``: attributes, joined by commas, of which the confusion matrices of
    each band follow in ``counts`` (``common.subgroups``). ``exponent``: of the update (``common.wire``).
    ``epsilon``: privacy of this study charged so far at this site, at the study's delta; a function of
    public values only. ``seconds`` is not sent: how long a site trained would hint at how many patients
    it drew.
    """

    site: str = Field(pattern=SITE_NAME)
    study_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    round: int = Field(ge=1)
    status: Literal["ok", "refused", "failed"]
    code: str = Field(default="", pattern=CODE)
    evaluation: Literal["none", "withheld", "noised", "exact"] = "none"
    counts: bytes = Field(default=b"", max_length=8 * 1024 * 1024)
    counts_std: float = Field(default=0.0, ge=0)
    subgroups: str = Field(default="", pattern=r"^[a-z,]{0,100}$")
    epsilon: float = Field(default=0.0, ge=0)
    exponent: int = Field(default=0, ge=-EXPONENTS, le=EXPONENTS)

    @model_validator(mode="after")
    def _counts_when_released(self) -> Self:
        if bool(self.counts) != (self.evaluation in ("noised", "exact")):
            raise ValueError("counts and evaluation disagree")
        return self

    def parse_counts(self, study: Study) -> Counts | None:
        """The released counts, or None. Raises RunError when their size is not the study's."""
        if not self.counts:
            return None
        self.parse_subgroups(study)
        classes, bins = len(study.task.classes), study.evaluation.score_bins
        try:
            vector = np.frombuffer(self.counts, dtype="<f8")
            return Counts.from_vector(vector[: vector_length(classes, bins)], classes, bins)
        except ValueError:
            raise RunError(f"site '{self.site}' sent counts of the wrong size or not finite") from None

    def parse_subgroups(self, study: Study) -> dict[str, NDArray[np.float64]]:
        """Confusion matrices [bands, C, C] by attribute. Raises RunError unless they are what the study asks for."""
        classes = len(study.task.classes)
        names = self.subgroups.split(",") if self.subgroups else []
        try:
            vector = np.frombuffer(self.counts, dtype="<f8")[vector_length(classes, study.evaluation.score_bins) :]
        except ValueError:
            vector = np.full(1, np.nan)
        sizes = [len(BANDS.get(name, ())) * classes**2 for name in names]
        asked = len(set(names)) == len(names) and set(names) <= set(study.evaluation.subgroups)
        if not asked or len(vector) != sum(sizes) or not np.isfinite(vector).all() or (names and not self.counts):
            raise RunError(f"site '{self.site}' sent subgroups that nobody asked for, or of the wrong size")
        parts = np.split(vector, np.cumsum(sizes)[:-1]) if names else []
        return {name: part.reshape(-1, classes, classes) for name, part in zip(names, parts, strict=True)}
