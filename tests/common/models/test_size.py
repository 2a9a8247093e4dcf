"""The number of weights without a network, against the network."""

from __future__ import annotations

import pytest

from common.models import parts
from common.models.resnet import build_model
from common.models.size import first_message_bytes, later_message_bytes, parameter_count, shared_count


@pytest.mark.parametrize("name", ["plain18", "resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize(("windows", "classes"), [(1, 2), (4, 7)])
@pytest.mark.parametrize("pooling", ["mean", "attention", "gru"])
def test_the_number_of_weights_is_that_of_the_network(small_study, name, windows, classes, pooling):
    study = small_study(
        model={"name": name, "pooling": pooling},
        privacy={"unit": "off"},
        input={"windows": [{"low": -1000 + n, "high": 1000} for n in range(windows)]},
        task={"classes": [str(n) for n in range(classes)]},
    )
    assert parameter_count(study) == sum(p.numel() for p in build_model(study, device="meta").parameters())


@pytest.mark.parametrize("pooling", ["attention", "gru"])
def test_what_pools_views_is_part_of_the_head(small_study, pooling):
    study = small_study(model={"pooling": pooling, "trainable": "head"}, privacy={"unit": "off"})
    assert shared_count(study) == parts.size(parts.shared(build_model(study, device="meta"), study))


SHARES = [("all", "none"), ("all", "norm"), ("all", "head"), ("norm+head", "none"), ("norm+head", "norm")]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("trainable", "local"), [*SHARES, ("norm+head", "head"), ("head", "none")])
def test_the_number_of_weights_in_a_message_is_that_of_the_network(small_study, name, trainable, local):
    study = small_study(model={"name": name, "trainable": trainable, "local": local}, federation={"wire": "float16"})
    model = build_model(study, device="meta")
    shared, base = parts.size(parts.shared(model, study)), parts.size(parts.base(model, study))
    assert shared_count(study) == shared
    assert later_message_bytes(study) == 2 * shared
    assert first_message_bytes(study) == 2 * shared + 4 * base
