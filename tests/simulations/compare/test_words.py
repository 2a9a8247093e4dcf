from __future__ import annotations

import html

import pytest

from simulations.compare.assemble import arm
from simulations.compare.content import Candidate, Contest, Duel, Test
from simulations.compare.page import page, summary
from simulations.compare.words import chance, findings, points, shown

TOGETHER, ALONE = ("spine", "federated"), ("spine", "local")


@pytest.fixture
def contest(judged, small_study):
    """A contest whose one pair has these tests."""

    def make(
        adjusted, *, difference=0.2, low=0.05, high=0.35, cases=12, folds=None, note="", names=("spine",), **texts
    ):
        study = small_study(**texts)
        said = [{"north": judged("abcdefghijkl", [0, 1] * 6, [0, 1] * 5 + [1, 0])}] * (folds or 1)
        test = Test(p=adjusted, adjusted=adjusted, note=note)
        decides = "corrected-t" if folds else "mcnemar"
        duel = Duel(
            first=TOGETHER,
            second=ALONE if len(names) == 1 else (names[1], "federated"),
            cases=cases,
            better=4,
            worse=2,
            difference=difference,
            low=low,
            high=high,
            tests={decides: test},
            per_site={"north": difference},
        )
        keys = [TOGETHER, ALONE] if len(names) == 1 else [(name, "federated") for name in names]
        return Contest(
            started="2026-01-01T00:00:00Z",
            finished="2026-01-01T01:00:00Z",
            seed=0,
            folds=folds,
            sites=("north",),
            versions={},
            candidates=tuple(
                Candidate(
                    name=name,
                    title="",
                    digests=("a" * 64,),
                    study=study.model_dump(mode="json"),
                    epsilon=9.5,
                    delta=1e-3,
                )
                for name in names
            ),
            differences=(),
            arms=tuple(arm(key, study, said) for key in keys),
            duels=(duel,),
            decides=decides,
        )

    return make


def test_a_difference_that_the_corrected_test_shows_is_said_with_its_direction(contest):
    (result, verdict) = findings(contest(0.013, folds=3))
    assert result.startswith("Trained together, the model was right for 30 of 36 patients, 83.3\u00a0% (95 % interval ")
    assert "over 3 folds 83.3\u00a0% on average, SD 0.0 points" in result
    assert verdict == (
        "Trained together was better than each hospital alone, by 20.0 points of accuracy "
        "(95 % interval +5.0 to +35.0; corrected resampled t-test, p = 0.013)."
    )
    worse = findings(contest(0.013, difference=-0.2, low=-0.35, high=-0.05))[1]
    assert worse.startswith("Each hospital alone was better than trained together, by 20.0 points")


@pytest.mark.parametrize("p", [0.05, 0.051, 0.4, 1.0])
def test_no_difference_shown_is_never_called_equal_nor_better(contest, p):
    one = contest(p, low=-0.1, high=0.5)
    assert not shown(one, one.duels[0])
    verdict = findings(one)[1]
    assert verdict.startswith("No difference was shown between trained together and each hospital alone (+20.0 points;")
    assert verdict.endswith("That does not make them equal: up to 50.0 points would fit these data.")
    assert "better" not in verdict


def test_a_pair_that_can_not_be_tested_says_why(contest):
    assert "no test could be made (no spread)" in findings(contest(None, note="no spread"))[1]
    assert "no patient in common" in findings(contest(None, cases=0, difference=None))[1]


def test_p_values_are_not_rounded_to_zero_nor_across_the_level():
    assert [chance(p) for p in (0.0, 0.0004, 0.0496, 0.0504, 0.31, None)] == [
        "< 0.001",
        "< 0.001",
        "< 0.05",
        "0.050",
        "0.31",
        "–",
    ]
    assert [points(x) for x in (0.123, -0.05, None)] == ["+12.3", "−5.0", "–"]


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("names", [("spine",), ("spine", "head")])
def test_the_page_holds_every_arm_and_pair_and_loads_nothing(contest, folds, names):
    one = contest(0.02, folds=folds, names=names)
    one = one.model_copy(update={"findings": findings(one)})
    text = page(one)
    assert text.count("<svg") == (4 if folds else 3)
    assert "default-src 'none'" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert all(sentence.split(" (")[0] in html.unescape(text) for sentence in one.findings)
    assert "ε = 9.50" in text
    for label in ("trained together",) if len(names) == 1 else names:
        assert f'<th scope="row">{label}</th>' in text
    assert summary(one).row_count == 2


def test_what_a_study_is_called_is_text_on_the_page(contest):
    one = contest(0.5)
    evil = one.candidates[0].model_copy(update={"title": "<img src=x onerror=alert(1)>"})
    text = page(one.model_copy(update={"candidates": (evil,)}))
    assert "<img" not in text
    assert "&lt;img" in text


def test_many_pairs_without_a_difference_share_one_sentence(contest):
    found = contest(0.8, names=("spine", "other"))
    duels = [found.duels[0].model_copy(update={"low": -0.01 * n, "high": 0.02}) for n in range(1, 6)]
    better = contest(0.001, names=("spine", "other")).duels[0]
    *_, shown_one, rest = findings(found.model_copy(update={"duels": (*duels, better)}))
    assert shown_one.startswith("Spine was better than other, by 20.0 points")
    assert rest == (
        "No difference was shown within any of the 5 other pairs (McNemar, p at least 0.80 after correction). "
        "That does not make them equal: up to 5.0 points would fit these data."
    )
