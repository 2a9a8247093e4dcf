from __future__ import annotations

import numpy as np
import pytest

from client.prediction import trust
from client.prediction.predict import Answer
from common.errors import UsageError
from common.model_card import CARD, CardClass, Figure, ModelCard, Trust


def answer(value=0.8, *, by_slice=False):
    values = np.array([1 - value, value])
    return Answer(("no", "yes"), by_slice, values[None], values, np.array([1]), np.zeros((1, 32, 32), np.float32))


def card(model="a" * 64):
    points = (
        Trust(predicted=0.1, observed=0.0, low=0.0, high=0.2, cases=20),
        Trust(predicted=0.78, observed=0.6, low=0.4, high=0.75, cases=25),
    )
    return ModelCard(
        title="t", study_name="s", study_digest="b" * 64, model_sha256=model, made="", simulated=True, facts={},
        intended_use="", limits=(), privacy=(), cases=68, seed=0, versions={},
        figures=(Figure(name="Accuracy", value=0.84, low=0.73, high=0.91),),
        classes=(CardClass(name="yes", cases=30, figures=(), reliability=points),),
    )  # fmt: skip


def test_it_says_what_became_of_such_values():
    lines = trust.in_words(card(), answer())
    assert lines == [
        (
            "Among 68 patients whom it had not seen in training it was right in 84 % (95 % interval 73 to 91 %), "
            "at the hospitals of its study."
        ),
        "When it gave 'yes' about 78 %, 60 % (95 % interval 40 to 75 %) of 25 such patients were 'yes'.",
    ]
    assert trust.as_json(card(), answer())["observed"] == 0.6


def test_far_from_every_value_that_was_seen_it_says_so():
    assert "too few patients" in trust.in_words(card(), answer(0.55))[-1]
    assert trust.as_json(card(), answer(0.55)) is None


def test_shares_of_slices_are_not_taken_for_probabilities():
    assert trust.trust(card(), answer(by_slice=True)) is None


def test_without_a_card_nothing_is_claimed(case):
    assert trust.card_of(case.model, case.saved) is None
    assert "nothing is known" in trust.in_words(None, answer())[0]


def test_the_card_of_another_model_is_refused(case):
    (case.root / CARD).write_text(card().model_dump_json())
    with pytest.raises(UsageError, match="is of model aaaaaaaaaaaa"):
        trust.card_of(case.model, case.saved)
    (case.root / CARD).write_text(card(case.saved.sha256).model_dump_json())
    assert trust.card_of(case.model, case.saved) == card(case.saved.sha256)
