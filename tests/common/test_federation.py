"""Which settings go together in [federation]."""

import pytest

from common.errors import StudyError

REFUSED = {
    "FedProx without its mu": ({"strategy": "fedprox"}, "needs proximal_mu"),
    "a mu without FedProx": ({"proximal_mu": 0.1}, "only one that takes proximal_mu"),
    "a trimmed mean that does not say how much": ({"strategy": "trimmed-mean", "minimum_sites": 9}, "needs trim"),
    "half trimmed at each end": ({"strategy": "trimmed-mean", "trim": 0.5, "minimum_sites": 9}, "trim"),
    "a trim of less than one site": (
        {"strategy": "trimmed-mean", "trim": 0.1, "minimum_sites": 9},
        "less than one site",
    ),
    "Multi-Krum without liars": ({"strategy": "multi-krum", "minimum_sites": 9}, "needs liars"),
    "more liars than the minimum withstands": (
        {"strategy": "multi-krum", "liars": 2, "minimum_sites": 6},
        "at least 7",
    ),
    "a median of two": ({"strategy": "median", "minimum_sites": 2}, "at least 3"),
    "weights with a median": ({"strategy": "median", "minimum_sites": 3, "weights": {"a": 2.0}}, "over a mean"),
    "a weight of nothing": ({"weights": {"a": 0.0}}, "weights"),
    "an unknown strategy": ({"strategy": "fedfoo"}, "strategy"),
    "an unknown wire": ({"wire": "float8"}, "wire"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_do_not_go_together_are_refused_by_name(small_study, name):
    settings, words = REFUSED[name]
    with pytest.raises(StudyError, match=words):
        small_study(federation=settings)


@pytest.mark.parametrize("training", [{"optimizer": "adamw"}, {"momentum": 0.9}])
def test_scaffold_needs_plain_sgd(small_study, training):
    with pytest.raises(StudyError, match="scaffold"):
        small_study(federation={"strategy": "scaffold"}, training=training)


def test_a_head_that_alone_is_trained_can_t_stay_at_the_sites(small_study):
    with pytest.raises(StudyError, match="nothing to share"):
        small_study(model={"trainable": "head", "local": "head"})


@pytest.mark.parametrize(
    "change", [{"wire": "float16"}, {"weights": {"a": 2.0}}, {"update_norm": 3.0}, {"strategy": "scaffold"}]
)
def test_what_counts_changes_the_digest_that_sites_approve(small_study, change):
    assert small_study(federation=change).digest != small_study().digest
