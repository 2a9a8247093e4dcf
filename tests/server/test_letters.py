"""What goes down: as few bytes as each site needs."""

import numpy as np
import pytest

from common import messages
from common.errors import RunError
from common.messages import Request
from common.models import parts
from common.models.weights import initial_model
from common.wire import unpack
from server.letters import Letters

NODES = {11: "a", 12: "b", 13: "c"}


@pytest.fixture
def letters(small_study):
    def make(**sections):
        study = small_study(**sections)
        model = initial_model(study, 0)
        return Letters(study, model, 0), model, study

    return make


def sent(letters, correction=None):
    """(nodes, names of the arrays) of each letter of a round."""
    found = letters.with_model(1, NODES, correction)
    return [(nodes, set(content[messages.MODEL])) for nodes, content in found]


def test_the_base_goes_down_until_a_site_has_it(letters):
    ours, _, _ = letters()
    both, one = {messages.ARRAY, messages.BASE}, {messages.ARRAY}
    assert sent(ours) == [([11, 12, 13], both)]
    ours.arrived(11, "")
    ours.arrived(12, "")
    ours.arrived(13, "deadline")
    assert sent(ours) == [([11, 12], one), ([13], both)]


def test_a_site_that_lost_the_base_gets_it_again(letters):
    ours, _, _ = letters()
    for node in NODES:
        ours.arrived(node, "")
    ours.arrived(12, messages.BASE_MISSING)
    assert sent(ours) == [([11, 13], {messages.ARRAY}), ([12], {messages.ARRAY, messages.BASE})]


def test_a_study_of_the_head_sends_kilobytes_after_the_first_message(letters):
    ours, model, _ = letters(model={"trainable": "head"})
    sent(ours)
    whole = 4 * sum(p.numel() for p in model.parameters())
    assert ours.bytes == 3 * whole
    for node in NODES:
        ours.arrived(node, "")
    ours.bytes = 0
    sent(ours)
    assert ours.bytes == 3 * 4 * (2 * 512 + 2)


def test_a_message_has_what_its_request_says(letters):
    ours, model, study = letters(federation={"wire": "float16"})
    ((_, content),) = ours.with_model(2, NODES, None)
    request = Request.from_config(dict(content[messages.CONFIG]))
    assert (request.round, request.study) == (2, study.canonical_json())
    base = content[messages.MODEL][messages.BASE].numpy()
    assert request.base == parts.digest(base)
    assert np.array_equal(base, parts.read(parts.base(model, study)))
    shared = parts.read(parts.shared(model, study))
    half = content[messages.MODEL][messages.ARRAY].numpy()
    assert half.nbytes == shared.nbytes / 2
    assert np.allclose(unpack(half, request.exponent, "float16", shared.size), shared, rtol=1e-3, atol=1e-6)


def test_each_site_gets_its_own_correction(letters):
    ours, model, study = letters(model={"trainable": "head"}, federation={"strategy": "scaffold"})
    size = parts.size(parts.shared(model, study))
    own = {"a": np.full(size, 1, np.float32), "b": np.full(size, 2, np.float32), "c": None}
    found = {}
    for nodes, content in ours.with_model(1, NODES, own.get):
        (node,) = nodes
        record = content[messages.MODEL]
        found[node] = float(record[messages.CORRECTION].numpy()[0]) if messages.CORRECTION in record else None
    assert found == {11: 1.0, 12: 2.0, 13: None}


def test_a_model_that_is_not_finite_is_not_sent_as_float16(letters):
    ours, model, study = letters(model={"trainable": "head"}, federation={"wire": "float16"})
    parts.write(parts.shared(model, study), np.full(2 * 512 + 2, np.inf, np.float32))
    with pytest.raises(RunError, match="can't be sent"):
        sent(ours)
