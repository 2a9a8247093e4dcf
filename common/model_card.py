"""``model-card.json``: what a model file is, for programs and for the site that was handed it.

The coordinator writes it beside ``model-card.md``, which says the same to people; ``fedct-site predict`` reads how
far the model's probabilities can be trusted from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import UsageError
from common.study import describe

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
CARD = "model-card.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(_Frozen):
    """A figure with its 95 % interval; ``note`` says why there is none."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


class Trust(_Frozen):
    """Cases to which probabilities near ``predicted`` were given, and the share of them that were of the class."""

    predicted: float
    observed: float
    low: float
    high: float
    cases: float


class CardClass(_Frozen):
    """One class against the rest."""

    name: str
    cases: float
    figures: tuple[Figure, ...]
    reliability: tuple[Trust, ...] = ()


class ModelCard(_Frozen):
    """Content of ``model-card.json``. ``facts``: heading and sentence; ``cases``: held-out patients of all hospitals."""

    format: Literal[1] = 1
    title: str
    study_name: str
    study_digest: Digest
    model_sha256: Digest
    made: str
    simulated: bool
    facts: dict[str, str]
    intended_use: str
    limits: tuple[str, ...]
    privacy: tuple[str, ...]
    cases: float | None = None
    figures: tuple[Figure, ...] = ()
    classes: tuple[CardClass, ...] = ()
    seed: int
    versions: dict[str, str]


def read_card(path: Path) -> ModelCard:
    """Read a ``model-card.json``. Raises UsageError naming the file, key and value."""
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"model card '{path}' can't be read ({error.strerror})", "Give the card of the model"
        ) from None
    except ValidationError as error:
        raise UsageError(describe(error, str(path)), "Expected a model-card.json of format 1") from None
