"""The study file: its digest, its one spelling, and what it says of bad values."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import StudyError
from common.study import load_study, parse_study, study_from_json

TOML = """\
# A study, with comments
format = 1
name = "spine"
title = "Fractures"

[task]
classes = ["normal", "compression", "burst"]
label_column = "diagnosis"
label_level = "patient"

[input]
windows = [{ low = -160, high = 240 }]
view = "sagittal"
spacing_mm = 1.0
slice_spacing_mm = 3.0
planes = 5
size = 64

[model]
name = "resnet18"
trainable = "norm+head"

[training]
optimizer = "adamw"
learning_rate = 0.001
local_steps = 10
batch_patients = 32

[privacy]
unit = "patient"
epsilon = 8.0
delta = 1e-3
clip = 1.0
sampling_rate = 0.1

[federation]
rounds = 20
minimum_sites = 3

[evaluation]
holdout = 0.25
"""

BASE: dict[str, Any] = {
    "format": 1,
    "name": "spine",
    "title": "Fractures",
    "description": "Which fracture",
    "task": {
        "classes": ["normal", "compression", "burst"],
        "label_column": "diagnosis",
        "label_level": "patient",
        "label_values": ["0", "1", "2"],
        "structure": "",
    },
    "input": {
        "modality": "CT",
        "windows": [{"low": -160.0, "high": 240.0}],
        "view": "sagittal",
        "spacing_mm": 1.0,
        "slice_spacing_mm": 3.0,
        "planes": 5,
        "size": 64,
        "kernels": ["B3*", "STANDARD"],
        "thickness_mm": 1.5,
        "denoise": "median",
        "normalise": "clahe",
    },
    "model": {
        "name": "resnet18",
        "initial": "weights.safetensors",
        "initial_sha256": "0" * 64,
        "trainable": "norm+head",
        "local": "none",
        "pooling": "mean",
        "norm": "group",
    },
    "training": {
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "schedule": "cosine",
        "momentum": 0.5,
        "weight_decay": 0.01,
        "local_steps": 10,
        "batch_patients": 32,
        "views_per_patient": 2,
        "augment": True,
    },
    "privacy": {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "clip": 1.0, "sampling_rate": 0.1},
    "federation": {
        "rounds": 20,
        "strategy": "fedadam",
        "server_learning_rate": 0.5,
        "proximal_mu": None,
        "trim": None,
        "liars": None,
        "weights": {"north": 2.0},
        "update_norm": 10.0,
        "wire": "float16",
        "minimum_sites": 3,
        "deadline_minutes": 30.0,
    },
    "evaluation": {
        "holdout": 0.25,
        "folds": None,
        "fold": None,
        "split_seed": 3,
        "every": 2,
        "score_bins": 32,
        "subgroups": [],
    },
}

# One other valid value for every key of BASE; None where the format knows of no other.
OTHER: dict[str, Any] = {
    "format": None,
    "name": "spine-2",
    "title": "fractures",
    "description": "which fracture",
    "task.classes": ["normal", "burst", "compression"],
    "task.label_column": "label",
    "task.label_level": "series",
    "task.label_values": ["0", "2", "1"],
    "task.structure": None,
    "input.modality": None,
    "input.windows": [{"low": -160.0, "high": 241.0}],
    "input.view": "coronal",
    "input.spacing_mm": 1.0000000001,
    "input.slice_spacing_mm": 3.5,
    "input.planes": 6,
    "input.size": 65,
    "input.kernels": ["STANDARD", "B3*"],
    "input.thickness_mm": 0.0,
    "input.denoise": "non-local-means",
    "input.normalise": "z-score",
    "model.name": "resnet34",
    "model.initial": "other.safetensors",
    "model.initial_sha256": "1" + "0" * 63,
    "model.trainable": "all",
    "model.local": "norm",
    "model.pooling": "attention",
    "model.norm": "group-ws",
    "training.optimizer": "sgd",
    "training.learning_rate": 0.002,
    "training.schedule": "constant",
    "training.momentum": 0.0,
    "training.weight_decay": 0.0,
    "training.local_steps": 11,
    "training.batch_patients": 33,
    "training.views_per_patient": 1,
    "training.augment": False,
    "privacy.unit": None,
    "privacy.epsilon": 7.0,
    "privacy.delta": 1e-4,
    "privacy.clip": 2.0,
    "privacy.sampling_rate": 1.0,
    "federation.rounds": 21,
    "federation.strategy": "fedavg",
    "federation.server_learning_rate": 1.0,
    "federation.proximal_mu": None,  # with its own strategy only: tests/common/test_federation.py
    "federation.trim": None,
    "federation.liars": None,
    "federation.weights": {"north": 3.0},
    "federation.update_norm": 11.0,
    "federation.wire": "float32",
    "federation.minimum_sites": 2,
    "federation.deadline_minutes": 31.0,
    "evaluation.holdout": 0.3,
    "evaluation.folds": None,  # with fold only, and without holdout: below
    "evaluation.fold": None,
    "evaluation.split_seed": 4,
    "evaluation.every": 1,
    "evaluation.score_bins": 64,
    "evaluation.subgroups": ["age", "sex"],
}


ABSENT_IS_A_VALUE = {"evaluation.folds", "evaluation.fold", "federation.update_norm"} | {
    f"federation.{name}" for name in ("proximal_mu", "trim", "liars")
}


def with_value(key: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(BASE)
    *path, last = key.split(".")
    table = content
    for part in path:
        table = table[part]
    table[last] = value
    return content


def keys_of(content: dict[str, Any]) -> set[str]:
    found = set()
    for key, value in content.items():
        found |= {f"{key}.{inner}" for inner in value} if isinstance(value, dict) else {key}
    return found


def shuffled(value: Any, seed: int) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(seed).shuffle(items)
        return {key: shuffled(inner, seed) for key, inner in items}
    return value


# The digest


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25)
def test_the_digest_does_not_depend_on_key_order(seed: int):
    assert parse_study(shuffled(BASE, seed)).digest == parse_study(BASE).digest


def test_the_digest_does_not_depend_on_comments_or_white_space(tmp_path: Path):
    plain = "\n".join(line for line in TOML.splitlines() if line and not line.startswith("#"))
    for name, text in (("a.toml", TOML), ("b.toml", plain.replace(" = ", "="))):
        (tmp_path / name).write_text(text)
    assert load_study(tmp_path / "a.toml").digest == load_study(tmp_path / "b.toml").digest


def test_a_default_spelled_out_has_the_digest_of_a_default_left_out():
    left_out = copy.deepcopy(BASE)
    for table, key in (("task", "label_level"), ("input", "modality"), ("training", "augment")):
        del left_out[table][key]
    assert parse_study(left_out).digest == parse_study(BASE).digest


def test_a_whole_number_and_its_float_have_one_digest():
    assert parse_study(with_value("privacy.epsilon", 8)).digest == parse_study(BASE).digest


def test_every_key_of_the_format_is_covered_below():
    assert keys_of(parse_study(BASE).model_dump(mode="json")) == set(OTHER) == keys_of(BASE)


@pytest.mark.parametrize("key", [key for key, value in OTHER.items() if value is not None])
def test_the_digest_depends_on_each_value(key: str):
    assert parse_study(with_value(key, OTHER[key])).digest != parse_study(BASE).digest


def test_a_structure_labels_slices_as_absent_or_present_and_nothing_else():
    whole = {**BASE, "task": {"classes": ["absent", "present"], "label_level": "slice", "structure": "GTV"}}
    whole["input"] = {**BASE["input"], "view": "axial", "slice_spacing_mm": 0.0}
    study = parse_study(whole)
    other = parse_study({**whole, "task": {**whole["task"], "structure": "CTV"}})
    assert study.digest != other.digest
    for key, value in (("label_level", "series"), ("classes", ["a", "b", "c"])):
        with pytest.raises(StudyError, match="structure 'GTV' labels slices as absent or present"):
            parse_study({**whole, "task": {**whole["task"], key: value}})


def test_imagenet_has_no_weights_for_the_plain_network():
    with pytest.raises(StudyError, match="'imagenet' has no weights for plain18"):
        parse_study(with_value("model", {"name": "plain18", "initial": "imagenet"}))


def test_turning_privacy_off_changes_the_digest():
    assert parse_study(with_value("privacy", {"unit": "off"})).digest != parse_study(BASE).digest


@pytest.mark.parametrize("key", [key for key, value in OTHER.items() if value is not None])
def test_the_cohort_digest_depends_on_task_input_and_split_alone(key: str):
    same = parse_study(with_value(key, OTHER[key])).cohort_digest == parse_study(BASE).cohort_digest
    shapes = key.startswith(("task.", "input.")) or key in ("evaluation.holdout", "evaluation.split_seed")
    assert same is not shapes


def test_all_folds_of_a_study_share_a_cohort_and_none_shares_a_digest():
    study = parse_study(BASE)
    folds = [study.of_fold(fold, 5) for fold in range(1, 6)]
    assert len({one.cohort_digest for one in folds}) == 1
    assert len({one.digest for one in folds}) == 5
    assert folds[0].cohort_digest not in (study.cohort_digest, study.of_fold(1, 4).cohort_digest)
    assert folds[2].evaluation.split_seed == study.evaluation.split_seed
    assert folds[2] == study.of_fold(1, 5).of_fold(3, 5)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"folds": 5}, "folds 5 and fold None belong together"),
        ({"fold": 1}, "folds None and fold 1 belong together"),
        ({"folds": 3, "fold": 4}, "fold 4 is not one of the folds; expected 1 to 3"),
        ({"folds": 3, "fold": 1, "holdout": 0.3}, "holdout 0.3 means nothing where folds are given"),
    ],
)
def test_folds_that_mean_nothing_are_refused(values, words):
    with pytest.raises(StudyError, match=re.escape(words)):
        parse_study({**BASE, "evaluation": values})


# The one spelling


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)


@settings(max_examples=40)
@given(
    classes=st.lists(NAMES, min_size=2, max_size=5, unique=True),
    title=st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    rate=st.floats(1e-6, 1.0),
    clip=st.floats(1e-6, 1000.0),
    rounds=st.integers(1, 10_000),
)
def test_a_study_comes_back_from_its_canonical_text(classes, title, rate, clip, rounds):
    content = copy.deepcopy(BASE)
    content["task"] = {"classes": classes}
    content["title"] = title
    content["privacy"] |= {"sampling_rate": rate, "clip": clip}
    content["federation"]["rounds"] = rounds
    study = parse_study(content)
    again = study_from_json(study.canonical_json())
    assert again == study
    assert again.digest == study.digest
    assert study.canonical_json().isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "null",
        json.dumps(BASE),
        parse_study(BASE).canonical_json() + " ",
        parse_study(BASE).canonical_json().replace('"format":1', '"format":1,"format":1'),
    ],
)
def test_any_other_spelling_is_refused(text: str):
    with pytest.raises(StudyError):
        study_from_json(text)


# Bad values

BAD: list[tuple[str, Any]] = [
    ("format", 2),
    ("name", "../up"),
    ("name", ""),
    ("title", "x" * 201),
    ("task.classes", ["one"]),
    ("task.classes", ["a", "a"]),
    ("task.label_level", "voxel"),
    ("task.label_values", ["0", "1"]),
    ("task.label_values", ["0", "0", "1"]),
    ("input.modality", "MR"),
    ("input.windows", []),
    ("input.view", "oblique"),
    ("input.spacing_mm", 0),
    ("input.spacing_mm", -1.0),
    ("input.slice_spacing_mm", 51),
    ("input.planes", 0),
    ("input.size", 31),
    ("input.size", 64.0),
    ("model.name", "vgg"),
    ("model.initial", ""),
    ("model.initial_sha256", "xyz"),
    ("model.trainable", "some"),
    ("training.optimizer", "lion"),
    ("training.learning_rate", 0),
    ("training.learning_rate", "fast"),
    ("training.schedule", "linear"),
    ("training.momentum", 1.0),
    ("training.weight_decay", -0.1),
    ("training.local_steps", 0),
    ("training.batch_patients", 0),
    ("training.views_per_patient", 65),
    ("training.augment", "yes"),
    ("privacy.unit", "slice"),
    ("privacy.epsilon", 0),
    ("privacy.epsilon", True),
    ("privacy.epsilon", "8"),
    ("privacy.epsilon", -1),
    ("privacy.epsilon", float("inf")),
    ("privacy.delta", 0),
    ("privacy.delta", 0.5),
    ("privacy.clip", 0),
    ("privacy.sampling_rate", 0),
    ("privacy.sampling_rate", 1.01),
    ("privacy.sampling_rate", float("nan")),
    ("federation.rounds", -1),
    ("federation.rounds", 0),
    ("federation.strategy", "scaffold"),
    ("federation.server_learning_rate", 0),
    ("federation.minimum_sites", 0),
    ("federation.deadline_minutes", 0),
    ("evaluation.folds", 1),
    ("evaluation.folds", 21),
    ("evaluation.fold", 0),
    ("evaluation.holdout", 0),
    ("evaluation.holdout", 1),
    ("evaluation.split_seed", -1),
    ("evaluation.every", 0),
    ("evaluation.score_bins", 7),
    ("evaluation.subgroups", "income"),
    ("evaluation.subgroups", ["age", "age"]),
]


@pytest.mark.parametrize(("key", "value"), BAD, ids=[f"{key}={value!r}"[:60] for key, value in BAD])
def test_a_bad_value_is_refused_by_key_and_value(key: str, value: Any):
    with pytest.raises(StudyError) as caught:
        parse_study(with_value(key, value), "x.toml")
    message = caught.value.message
    assert message.startswith("x.toml: ")
    assert key.rsplit(".", maxsplit=1)[-1] in message
    shown = [repr(value)] if not isinstance(value, list) else [repr(value), str(len(value))]
    assert any(text in message for text in shown), message


@pytest.mark.parametrize("key", sorted(set(OTHER) - {"format", "name", "privacy.unit"} - ABSENT_IS_A_VALUE))
def test_null_is_no_value(key: str):
    with pytest.raises(StudyError, match=key.rsplit(".", maxsplit=1)[-1]):
        parse_study(with_value(key, None))


@pytest.mark.parametrize("table", ["", "task", "input", "model", "training", "privacy", "federation", "evaluation"])
def test_an_unknown_key_is_refused_by_name(table: str):
    key = f"{table}.colour".lstrip(".")
    with pytest.raises(StudyError, match=f"{key} = 'red': unknown key"):
        parse_study(with_value(key, "red"))


@pytest.mark.parametrize("table", ["task", "input", "model", "training", "privacy", "federation"])
def test_a_missing_table_is_named(table: str):
    content = copy.deepcopy(BASE)
    del content[table]
    with pytest.raises(StudyError, match=f"{table}: Field required"):
        parse_study(content)


def test_all_problems_are_told_at_once():
    content = with_value("privacy.epsilon", -1)
    content["federation"]["rounds"] = -1
    with pytest.raises(StudyError, match=r"privacy\.epsilon = -1: .*; federation\.rounds = -1: "):
        parse_study(content)


def test_a_window_upside_down_names_both_ends():
    with pytest.raises(StudyError, match=r"low 240.0 is not below high -160.0"):
        parse_study(with_value("input.windows", [{"low": 240, "high": -160}]))


@pytest.mark.parametrize(
    ("pooling", "level", "privacy", "words"),
    [
        ("gru", "patient", BASE["privacy"], "the private step can't clip that per patient"),
        ("attention", "series", {"unit": "off"}, "may give them several labels"),
        ("max", "slice", {"unit": "off"}, "may give them several labels"),
    ],
)
def test_pooling_that_can_not_be_is_refused(pooling, level, privacy, words):
    content = BASE | {"model": {"pooling": pooling}, "privacy": privacy}
    content["task"] = BASE["task"] | {"label_level": level}
    content["input"] = BASE["input"] | {"view": "axial", "slice_spacing_mm": 0.0}
    with pytest.raises(StudyError, match=words):
        parse_study(content)


@pytest.mark.parametrize("missing", ["epsilon", "delta", "clip", "sampling_rate"])
def test_a_half_given_claim_names_what_is_missing(missing: str):
    content = copy.deepcopy(BASE)
    del content["privacy"][missing]
    with pytest.raises(StudyError, match=f"needs {missing} as well"):
        parse_study(content)


def test_privacy_off_takes_no_numbers():
    with pytest.raises(StudyError, match=r"takes no other keys \(got epsilon\)"):
        parse_study(with_value("privacy", {"unit": "off", "epsilon": 8}))


def test_slice_labels_need_slices_as_acquired():
    with pytest.raises(StudyError, match="label_level 'slice' needs"):
        parse_study(with_value("task.label_level", "slice"))


def test_imagenet_weights_need_three_channels():
    content = with_value("model", {"initial": "imagenet"})
    content["input"]["windows"].append({"low": -1000, "high": 400})
    with pytest.raises(StudyError, match="takes 3 input channels"):
        parse_study(content)


# The file


def test_a_file_is_read_with_its_name_in_every_error(tmp_path: Path):
    path = tmp_path / "study.toml"
    with pytest.raises(StudyError, match="does not exist"):
        load_study(path)
    for content, expected in ((b"format = ", "not valid TOML"), (b"\xff\xfe", "can't be read"), (b"", "format")):
        path.write_bytes(content)
        with pytest.raises(StudyError, match=expected) as caught:
            load_study(path)
        assert str(path) in caught.value.message


def test_a_folder_is_no_study_file(tmp_path: Path):
    with pytest.raises(StudyError, match="can't be read"):
        load_study(tmp_path)


def test_the_derived_numbers_follow_from_the_study():
    study = parse_study(BASE)
    assert study.total_steps == 200
    assert study.input.channels == 3
    assert study.task.values == ("0", "1", "2")
    assert parse_study(with_value("task.label_values", [])).task.values == study.task.classes
    assert study.model.initial_is_file
    assert study.privacy.on


def test_sites_evaluate_after_every_so_many_rounds():
    study = parse_study(with_value("evaluation.every", 3))
    assert [round_ for round_ in range(1, 12) if study.evaluates_in(round_)] == [4, 7, 10]


def test_a_study_can_not_be_changed():
    study = parse_study(BASE)
    with pytest.raises(ValueError, match="frozen"):
        study.privacy.epsilon = 100.0  # type: ignore[misc]
