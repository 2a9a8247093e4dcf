"""How far the values of an answer can be trusted: what became of such values among the study's held-out patients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.prediction.predict import Answer
from common.errors import UsageError
from common.model_card import CARD, ModelCard, Trust, read_card
from common.models.saved import SavedModel

_NEAR = 0.125  # the width of a group of the reliability curve


def card_of(path: Path, model: SavedModel) -> ModelCard | None:
    """The card beside the model file ``path``; None if there is none. Raises UsageError if it is another model's."""
    card_file = path.with_name(CARD)
    if not card_file.exists():
        return None
    card = read_card(card_file)
    if card.model_sha256 != model.sha256:
        raise UsageError(
            f"model card '{card_file}' is of model {card.model_sha256[:12]}; '{path}' is {model.sha256[:12]}",
            "Put the model's own card beside it, or none",
        )
    return card


def trust(card: ModelCard | None, answer: Answer) -> Trust | None:
    """What became of values near the largest one; None if that is not known."""
    if card is None or answer.by_slice:  # a card is about cases; shares of slices are something else
        return None
    value = float(answer.values[answer.said])
    points = next((one.reliability for one in card.classes if one.name == answer.classes[answer.said]), ())
    near = [point for point in points if abs(point.predicted - value) <= _NEAR]
    return min(near, key=lambda point: abs(point.predicted - value), default=None)


def in_words(card: ModelCard | None, answer: Answer) -> list[str]:
    """The same as sentences."""
    if card is None:
        return ["No model card lies beside the model, so nothing is known here of how often it is right."]
    lines = []
    accuracy = next((figure for figure in card.figures if figure.name == "Accuracy"), None)
    if accuracy is not None and accuracy.value is not None:
        lines.append(
            f"Among {card.cases:.0f} patients whom it had not seen in training it was right in {100 * accuracy.value:.0f} %"
            f"{_limits(accuracy.low, accuracy.high)}, at the hospitals of its study."
        )
    found = trust(card, answer)
    name = answer.classes[answer.said]
    if found is not None:
        lines.append(
            f"When it gave '{name}' about {100 * found.predicted:.0f} %, {100 * found.observed:.0f} %"
            f"{_limits(found.low, found.high)} of {found.cases:.0f} such patients were '{name}'."
        )
    elif not answer.by_slice:
        lines.append(f"There were too few patients with such a value for '{name}' to say how often it is right.")
    return lines


def as_json(card: ModelCard | None, answer: Answer) -> dict[str, Any] | None:
    """For ``prediction.json``: None if nothing is known."""
    found = trust(card, answer)
    return found.model_dump(mode="json") if found is not None else None


def _limits(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
