from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import StudyError
from common.study import load_study
from simulations.benchmarks import private_case
from simulations.benchmarks.private_case import measure, measure_each, over_epsilon, over_trainable

STUDY = load_study(Path(__file__).parents[3] / "simulations" / "scenarios" / "spine-resnet18-private.toml")


def metrics(value):
    return SimpleNamespace(accuracy=SimpleNamespace(value=value), macro_auroc=SimpleNamespace(value=value + 0.2))


@pytest.fixture
def ran(monkeypatch):
    """The studies run, in turn; a private one scores 0.5 plus a tenth a seed, a public one 0.7, alone 0.3 and 0.5."""
    studies = []

    def run(study, sites, out, *, base, seed, kinds=()):
        studies.append((study, out.name, kinds))
        pooled = metrics(0.5 + seed / 10 if study.privacy.on else 0.7)
        alone = SimpleNamespace(pooled_per_site={"a": metrics(0.3), "b": metrics(0.5)})
        return SimpleNamespace(final=SimpleNamespace(pooled=pooled), comparisons=dict.fromkeys(kinds, alone))

    monkeypatch.setattr(private_case, "run_federation", run)
    return studies


def test_a_private_study_is_run_with_and_without_its_privacy(ran, tmp_path):
    found = measure(STUDY, tmp_path, tmp_path, [0, 2], base=tmp_path)
    assert [(study.privacy.on, kinds) for study, _, kinds in ran] == [(True, ("local",)), (False, ())] * 2
    assert found["summary"]["private_accuracy"] == {"mean": pytest.approx(0.6), "sd": pytest.approx(0.1414, abs=1e-4)}
    assert found["summary"]["without_auroc"]["mean"] == pytest.approx(0.9)
    assert found["summary"]["alone_accuracy"]["mean"] == pytest.approx(0.4)


def test_only_the_study_without_privacy_takes_the_other_rate(ran, tmp_path):
    measure(STUDY, tmp_path, tmp_path, [0], base=tmp_path, rate=0.25)
    assert [study.training.learning_rate for study, _, _ in ran] == [STUDY.training.learning_rate, 0.25]


def test_epsilon_is_all_that_differs_between_the_studies_over_it():
    studies = over_epsilon(STUDY, [0.5, 8.0])
    assert {name: study.privacy.epsilon for name, study in studies.items()} == {"0.5": 0.5, "8": 8.0}
    assert studies["8"] == STUDY
    assert studies["0.5"].privacy.model_copy(update={"epsilon": 8.0}) == STUDY.privacy


def test_each_part_of_the_network_is_trained_at_its_own_rate():
    studies = over_trainable(STUDY, {"head": 10.0, "all": 0.5})
    assert [(s.model.trainable, s.training.learning_rate) for s in studies.values()] == [("head", 10.0), ("all", 0.5)]


def test_each_study_is_run_once_a_seed_in_a_folder_of_its_own(ran, tmp_path):
    found = measure_each(over_epsilon(STUDY, [1.0, 2.0]), tmp_path, tmp_path, [0, 1], base=tmp_path)
    assert len({folder for _, folder, _ in ran}) == 4
    assert found["2"]["summary"]["private_accuracy"]["mean"] == pytest.approx(0.55)


@pytest.mark.parametrize(
    "use",
    [
        lambda study: over_epsilon(study, [1.0]),
        lambda study: over_trainable(study, {"head": 1.0}),
        lambda study: measure(study, Path(), Path(), [0], base=Path()),
    ],
)
def test_a_study_without_privacy_is_refused(use):
    with pytest.raises(StudyError, match=r"privacy\.unit 'off'"):
        use(STUDY.without_privacy())


def test_an_epsilon_out_of_range_is_named():
    with pytest.raises(StudyError, match=r"privacy\.epsilon = 0\.0"):
        over_epsilon(STUDY, [0.0])
