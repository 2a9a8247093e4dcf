"""Judgements of models that are no models: probabilities drawn here."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from client.training.evaluate import Decisions
from simulations.compare.judgements import Judgement


@pytest.fixture(scope="session")
def judged() -> Callable[..., Judgement]:
    """A judgement of patients ``names`` with these true classes, predicted as told; all held out unless said."""

    def make(names, labels, predicted, *, patients=None, held_out=None, classes=2, sure=0.8) -> Judgement:
        people = list(dict.fromkeys(names))
        rows = np.array([people.index(name) for name in names]) if patients is None else np.array(patients)
        probabilities = np.full((len(labels), classes), (1 - sure) / (classes - 1))
        probabilities[np.arange(len(labels)), predicted] = sure
        pseudonyms = np.zeros((len(people), 16), np.uint8)
        pseudonyms[:, 0] = [ord(name) for name in people]
        out = np.ones(len(people), bool) if held_out is None else np.array(held_out)
        return Judgement(pseudonyms, out, Decisions(rows, np.array(labels), probabilities))

    return make
