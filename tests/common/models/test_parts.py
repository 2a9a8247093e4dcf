"""What goes round, what goes down once, and what stays."""

import numpy as np
import pytest

from common.models import parts
from common.models.weights import initial_model, to_vector

CASES = [
    (t, loc) for t in ("all", "norm+head", "head") for loc in ("none", "norm", "head") if (t, loc[:1]) != ("head", "n")
]
CASES = [(t, loc) for t, loc in CASES if t != "head"] + [("head", "none")]


@pytest.mark.parametrize(("trainable", "local"), CASES)
def test_shared_and_base_are_the_whole_network_and_don_t_overlap(small_study, trainable, local):
    study = small_study(model={"trainable": trainable, "local": local})
    model = initial_model(study, 0)
    shared, base, own = (f(model, study) for f in (parts.shared, parts.base, parts.local))
    assert {id(p) for p in shared} & {id(p) for p in base} == set()
    assert len(shared) + len(base) == len(list(model.parameters()))
    assert {id(p) for p in own} <= {id(p) for p in base}
    assert all(p.requires_grad for p in [*shared, *own])
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == len(shared) + len(own)


def test_what_is_read_can_be_written_to_a_copy(small_study):
    study = small_study(model={"local": "norm"})
    model, copy = initial_model(study, 1), initial_model(study, 2)
    for part in (parts.shared, parts.base):
        parts.write(part(copy, study), parts.read(part(model, study)))
    assert np.array_equal(to_vector(copy), to_vector(model))


def test_a_vector_of_another_length_is_refused_and_writes_nothing(small_study):
    study = small_study(model={"trainable": "head"})
    model = initial_model(study, 1)
    before = to_vector(model)
    for length in (0, 5, 1027):
        with pytest.raises(ValueError, match="expected"):
            parts.write(parts.shared(model, study), np.ones(length, np.float32))
    assert np.array_equal(to_vector(model), before)


def test_the_digest_follows_every_value():
    one = np.arange(5, dtype=np.float32)
    other = one.copy()
    other[3] = np.nextafter(other[3], 9, dtype=np.float32)
    assert parts.digest(one) == parts.digest(one.copy()) != parts.digest(other)
