import numpy as np
import pytest

from common.errors import RunError
from common.messages import Hello, Reply, Request
from common.metrics import Counts

GOOD = {"site": "st-anna", "study_digest": "0" * 64, "round": 1, "status": "ok"}


def test_a_request_carries_the_study_and_comes_back_whole(small_study):
    study = small_study()
    request = Request(study=study.canonical_json(), round=3, seed=7)
    again = Request.from_config(request.to_config())
    assert again == request
    assert again.parse_study().digest == study.digest


def test_an_edited_study_has_another_digest(small_study):
    study = small_study()
    edited = Request(study=study.canonical_json().replace('"rounds":2', '"rounds":3'), round=1, seed=0)
    assert edited.parse_study().digest != study.digest


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"exponent": 201},
        {"patients": 80},
        {"loss": 0.4},
        {"round": 0},
        {"round": "1"},
        {"status": "fine"},
        {"code": "Traceback: patient Doe^Jane"},
        {"site": "../etc"},
        {"epsilon": float("nan")},
        {"evaluation": "exact"},
        {"counts": b"12345678"},
    ],
)
def test_what_is_not_in_the_schema_is_refused_without_being_echoed(change):
    with pytest.raises(RunError) as caught:
        Reply.from_config({**GOOD, **change})
    assert "Doe" not in str(caught.value)


def test_counts_of_another_size_or_not_finite_are_refused(small_study):
    study = small_study()
    vector = Counts.zero(2, study.evaluation.score_bins).to_vector()
    good = Reply(**GOOD, evaluation="exact", counts=vector.tobytes())
    assert good.parse_counts(study).confusion.shape == (2, 2)
    for bad in (vector[:-1], np.full_like(vector, np.inf)):
        with pytest.raises(RunError, match="st-anna"):
            Reply(**GOOD, evaluation="exact", counts=bad.tobytes()).parse_counts(study)


def test_subgroups_that_nobody_asked_for_or_of_another_size_are_refused(small_study):
    asked = small_study(evaluation={"subgroups": ["age", "sex"]})
    counts = Counts.zero(2, asked.evaluation.score_bins).to_vector()
    bands = {"age": 5, "sex": 4, "vendor": 6}

    def reply(names, extra):
        return Reply(**GOOD, evaluation="exact", subgroups=names, counts=np.append(counts, np.arange(extra)).tobytes())

    found = reply("age,sex", 4 * 9).parse_subgroups(asked)
    assert {name: part.shape for name, part in found.items()} == {n: (bands[n], 2, 2) for n in ("age", "sex")}
    assert found["sex"].ravel().tolist() == list(range(20, 36))
    assert reply("", 0).parse_subgroups(small_study()) == {}
    for study, names, extra in (
        (small_study(), "sex", 16),
        (asked, "vendor", 24),
        (asked, "sex,sex", 32),
        (asked, "sex", 15),
        (asked, "", 16),
        (asked, "sex", 0),
        (asked, "sex,", 16),
    ):
        for parse in (Reply.parse_counts, Reply.parse_subgroups):
            with pytest.raises(RunError, match="st-anna"):
                parse(reply(names, extra), study)


def test_a_hello_says_no_more_than_name_release_and_readiness():
    assert set(Hello(site="a", release="1", ready=False, code="x").to_config()) == {
        "version",
        "site",
        "release",
        "ready",
        "code",
    }
