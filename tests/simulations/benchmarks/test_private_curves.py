import json

import pytest

from common.errors import DataError
from simulations.benchmarks.private_curves import draw


def measured(value, sd=None):
    spread = {"mean": value, "sd": sd}
    return {"summary": {"private_auroc": spread, "alone_auroc": spread | {"mean": value - 0.1}}}


@pytest.fixture
def files(tmp_path):
    epsilon, trainable = tmp_path / "epsilon.json", tmp_path / "trainable.json"
    epsilon.write_text(json.dumps({"8": measured(0.74, 0.01), "1": measured(0.65)}))
    alone_not_measured = {"summary": {"private_auroc": {"mean": 0.62, "sd": None}}}
    trainable.write_text(json.dumps({"head": measured(0.7), "all": alone_not_measured}))
    return epsilon, trainable


def test_a_picture_is_drawn_and_the_figures_alone_fix_it(files, tmp_path):
    one, other, changed = (tmp_path / name for name in ("one.png", "other.png", "changed.png"))
    draw(*files, one)
    draw(*files, other)
    assert one.read_bytes() == other.read_bytes()
    assert one.read_bytes().startswith(b"\x89PNG")
    files[0].write_text(json.dumps({"8": measured(0.70), "1": measured(0.65)}))
    draw(*files, changed)
    assert changed.read_bytes() != one.read_bytes()


@pytest.mark.parametrize("content", ["", "[]", '{"1": {}}', '{"1": {"summary": {"private_auroc": {"mean": null}}}}'])
def test_a_file_that_holds_something_else_is_refused_by_name(files, tmp_path, content):
    files[1].write_text(content)
    with pytest.raises(DataError, match=r"trainable\.json"):
        draw(*files, tmp_path / "out.png")
