import dataclasses

import numpy as np
import pytest

from common.privacy.plan import plan_for
from simulations.audit.inversion import inversion_check, invert
from simulations.audit.shadow import Held


@pytest.fixture
def patient():
    """A bright disc in a grey field."""
    y, x = np.mgrid[:32, :32]
    plane = np.where((y - 14) ** 2 + (x - 18) ** 2 < 60, 210, 70).astype(np.uint8)
    return Held(np.stack([plane, plane, plane])[None], np.array([1]), [np.array([0])])


def test_a_bare_update_gives_the_picture_away_and_a_private_one_does_not(study, patient):
    found = invert(study, plan_for(study), patient)
    assert np.abs(found.bare.astype(int) - found.original.astype(int)).max() <= 1
    assert found.similarity_bare > 0.99
    assert abs(found.correlation_private) < 0.2
    assert found.similarity_private < 0.5
    assert inversion_check(found).passed


def test_clipping_alone_hides_nothing(study, patient):
    found = invert(study, dataclasses.replace(plan_for(study), sigma=0.0), patient)
    assert found.similarity_private > 0.99
    assert not inversion_check(found).passed


def test_an_attack_that_fails_without_privacy_is_said_to_say_little(study, patient):
    found = dataclasses.replace(invert(study, plan_for(study), patient), correlation_bare=0.1)
    assert "says little" in inversion_check(found).found
