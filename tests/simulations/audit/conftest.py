"""A study of seconds, pictures in memory, and the faults that an audit must catch."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.audit.shadow import Held, with_strangers


@pytest.fixture
def study(small_study):
    """Two views of a patient, six rounds of two steps; a claim that few canaries can refute."""
    return small_study(
        task={"classes": ["compression", "burst", "normal"]},
        model={"trainable": "norm+head"},
        training={"learning_rate": 0.5, "local_steps": 2, "batch_patients": 4, "views_per_patient": 2, "augment": True},
        privacy={"epsilon": 2.0, "delta": 1e-4, "sampling_rate": 0.5},
        federation={"rounds": 6},
    )


@pytest.fixture
def people():
    """Two patients of three slices, and three who mean harm."""
    rng = np.random.default_rng(1)
    pictures = rng.integers(0, 120, (6, 3, 32, 32), dtype=np.uint8)
    some = Held(pictures, np.repeat([0, 1], 3).astype(np.int64), list(np.arange(6).reshape(2, 3)))
    return with_strangers(some, 3, rng)
