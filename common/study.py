"""The study file: the plan that coordinator and sites agree on.

A study is a TOML file, validated into frozen models: unknown keys are refused, every error names
key, value and what was expected. Its identity is ``Study.digest``: SHA-256 over the canonical JSON
of the validated content (keys sorted, no white space, defaults filled in), so comments and key order
do not change it and every value that counts does. Only public facts belong here: nothing in a study
may be derived from a site's patients.
"""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import StudyError
from common.federation import Federation
from common.subgroups import Attribute

FORMAT = 1
NEIGHBOURS = 3  # planes in a 2.5D stack
HOLDOUT = 0.2
MOST_FOLDS = 20

Label = Annotated[str, Field(min_length=1, max_length=64)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Task(_Frozen):
    """What is predicted. ``label_values`` are the labels as the table writes them, one a class.

    ``structure``: instead of a table, the name of a structure (ROIName of an RTSTRUCT or SegmentLabel of a
    DICOM segmentation; letter case is ignored). A slice on which it is drawn has the second class; one of a
    series that was contoured, where it is not drawn, the first.
    """

    classes: tuple[Label, ...] = Field(min_length=2, max_length=64, strict=False)
    label_column: Label = "label"
    label_level: Literal["patient", "study", "series", "slice"] = "patient"
    label_values: tuple[Label, ...] = Field(default=(), strict=False)
    structure: str = Field(default="", max_length=64)

    @model_validator(mode="after")
    def _distinct(self) -> Task:
        for name, values in (("classes", self.classes), ("label_values", self.label_values)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {list(values)} holds a value twice; expected distinct values")
        if self.label_values and len(self.label_values) != len(self.classes):
            raise ValueError(
                f"label_values has {len(self.label_values)} entries; expected one a class ({len(self.classes)})"
            )
        return self

    @model_validator(mode="after")
    def _present_or_absent(self) -> Task:
        if self.structure and (self.label_level != "slice" or len(self.classes) != 2):
            raise ValueError(
                f"structure '{self.structure}' labels slices as absent or present; expected label_level 'slice' "
                f"and two classes (got '{self.label_level}' and {len(self.classes)})"
            )
        return self

    @property
    def values(self) -> tuple[str, ...]:
        """The label as written in the table, in the order of ``classes``."""
        return self.label_values or self.classes


class Window(_Frozen):
    """A Hounsfield window: ``low`` HU becomes 0, ``high`` HU becomes 1, clipped outside."""

    low: float = Field(ge=-2000, le=10000)
    high: float = Field(ge=-2000, le=10000)

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}; expected low < high in HU")
        return self


class Input(_Frozen):
    """What the network sees: 2.5D stacks of three neighbouring planes of one view.

    ``spacing_mm``: pixel size in the plane; ``size``: pixels a side, so the field of view is
    ``size * spacing_mm``, centred on the volume. ``slice_spacing_mm``: distance between neighbouring
    planes; 0 keeps the slices as acquired (axial only). ``planes``: how many central planes become
    examples, 0 for all (axial only).

    Of several reconstructions of a study one is taken: ``kernels`` are patterns of ConvolutionKernel in
    order of preference (``*`` stands for anything, letter case is ignored), ``thickness_mm`` the slice
    thickness to come nearest to, 0 for the thinnest. ``denoise``: a median over 3 x 3 pixels or
    non-local means, on each plane in HU. ``normalise``: after windowing, ``z-score`` takes each plane's mean
    to the middle of the range and three standard deviations to its ends, ``clahe`` equalises its histogram
    locally (contrast-limited).
    """

    modality: Literal["CT"] = "CT"
    windows: tuple[Window, ...] = Field(min_length=1, max_length=4, strict=False)
    view: Literal["axial", "sagittal", "coronal"] = "axial"
    spacing_mm: float = Field(gt=0, le=20)
    slice_spacing_mm: float = Field(default=0.0, ge=0, le=50)
    planes: int = Field(default=0, ge=0, le=4096)
    size: int = Field(ge=32, le=512)
    kernels: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        default=(), max_length=32, strict=False
    )
    thickness_mm: float = Field(default=0.0, ge=0, le=50)
    denoise: Literal["none", "median", "non-local-means"] = "none"
    normalise: Literal["none", "z-score", "clahe"] = "none"

    @model_validator(mode="after")
    def _planes(self) -> Input:
        if self.view != "axial" and (self.planes == 0 or self.slice_spacing_mm == 0):
            raise ValueError(
                f"view '{self.view}' is a reformat; expected planes >= 1 and slice_spacing_mm > 0 "
                f"(got planes {self.planes}, slice_spacing_mm {self.slice_spacing_mm})"
            )
        return self

    @property
    def channels(self) -> int:
        """Network input channels: three neighbours for each window."""
        return NEIGHBOURS * len(self.windows)


class Model(_Frozen):
    """Which network; ``plain18`` is ResNet-18 without shortcuts, to compare with.

    ``initial``: ``none``, ``imagenet`` (torchvision's), or a safetensors path. For a file, ``initial_sha256`` binds the study to its bytes. ``local``: weights that are trained and stay at each
    site, which sends and receives the others: its normalisation (FedBN, Li et al. 2021) or its last layer (FedPer,
    Arivazhagan et al. 2019). ``pooling``: how a patient's views become one decision: ``mean`` of their probabilities;
    ``max``, the largest of each class, scaled to add up to 1; ``attention`` or ``gru`` over their features
    (``common.models.pooling``), trained on all views of a patient together. ``norm``: GroupNorm, or with ``group-ws``
    also weight standardisation of all convolutions (Qiao et al. 2019).
    """

    name: Literal["plain18", "resnet18", "resnet34", "resnet50"] = "resnet18"
    initial: str = Field(default="none", min_length=1, max_length=500)
    initial_sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    trainable: Literal["all", "norm+head", "head"] = "all"
    local: Literal["none", "norm", "head"] = "none"
    pooling: Literal["mean", "max", "attention", "gru"] = "mean"
    norm: Literal["group", "group-ws"] = "group"

    @model_validator(mode="after")
    def _some_shared(self) -> Model:
        if self.local != "none" and self.trainable == "head":
            raise ValueError(
                f"local '{self.local}' leaves nothing to share with trainable 'head'; expected trainable 'all' or 'norm+head'"
            )
        return self

    @model_validator(mode="after")
    def _published(self) -> Model:
        if self.initial == "imagenet" and self.name == "plain18":
            raise ValueError("initial 'imagenet' has no weights for plain18; give 'none', a file, or a resnet")
        return self

    @property
    def initial_is_file(self) -> bool:
        """Whether the initial weights come from a file of the coordinator."""
        return self.initial not in ("none", "imagenet")


class Training(_Frozen):
    """Local training of one round. ``batch_patients`` is a public number: the patients a step uses
    without privacy, and the fixed denominator of a step with it.
    """

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = Field(gt=0, le=100)
    schedule: Literal["constant", "cosine"] = "constant"
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    local_steps: int = Field(ge=1, le=100_000)
    batch_patients: int = Field(ge=1, le=100_000)
    views_per_patient: int = Field(default=1, ge=1, le=64)
    augment: bool = True


class Privacy(_Frozen):
    """The privacy claim: patient-level, add or remove one patient; or ``unit = "off"``.

    ``sampling_rate``: the public Poisson rate q of a patient being in a step; 1 is the full batch.
    """

    unit: Literal["patient", "off"]
    epsilon: float | None = Field(default=None, gt=0, le=100)
    delta: float | None = Field(default=None, gt=0, lt=0.1)
    clip: float | None = Field(default=None, gt=0, le=1000)
    sampling_rate: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _complete(self) -> Privacy:
        names = ("epsilon", "delta", "clip", "sampling_rate")
        given = [n for n in names if getattr(self, n) is not None]
        if self.unit == "patient" and len(given) < len(names):
            missing = ", ".join(n for n in names if n not in given)
            raise ValueError(f"unit 'patient' needs {missing} as well")
        if self.unit == "off" and given:
            raise ValueError(
                f"unit 'off' takes no other keys (got {', '.join(given)}); remove them or set unit 'patient'"
            )
        return self

    @property
    def on(self) -> bool:
        """Whether training is differentially private."""
        return self.unit == "patient"


class Evaluation(_Frozen):
    """``holdout``: share of patients kept out of training; ``split_seed`` names the split;
    ``every``: rounds between evaluations of the global model (the final model is always evaluated);
    ``score_bins``: bins of the probability histograms. ``subgroups``: by what the final evaluation is to be broken down
    (``common.subgroups``); a site gives of it what its policy permits.

    ``folds`` and ``fold`` (from 1) take the place of ``holdout``: the patients are split into so many parts,
    and this study keeps one of them out of training. K studies that differ in ``fold`` alone are a
    cross-validation; each is approved, and charged, on its own.
    """

    holdout: float = Field(default=HOLDOUT, gt=0, lt=1)
    folds: int | None = Field(default=None, ge=2, le=MOST_FOLDS)
    fold: int | None = Field(default=None, ge=1, le=MOST_FOLDS)
    split_seed: int = Field(default=0, ge=0, le=2**31)
    every: int = Field(default=1, ge=1, le=10_000)
    score_bins: int = Field(default=64, ge=8, le=1024)
    subgroups: tuple[Attribute, ...] = Field(default=(), strict=False)

    @model_validator(mode="after")
    def _one_split(self) -> Evaluation:
        if len(set(self.subgroups)) != len(self.subgroups):
            raise ValueError(f"subgroups {list(self.subgroups)} names one twice; expected distinct names")
        if (self.folds is None) != (self.fold is None):
            raise ValueError(f"folds {self.folds} and fold {self.fold} belong together; give both or neither")
        if self.folds is None or self.fold is None:
            return self
        if self.fold > self.folds:
            raise ValueError(f"fold {self.fold} is not one of the folds; expected 1 to {self.folds}")
        if self.holdout != HOLDOUT:
            raise ValueError(f"holdout {self.holdout} means nothing where folds are given; remove one of them")
        return self


class Study(_Frozen):
    """A validated study. Build it with ``load_study`` or ``parse_study``.

    ``title`` and ``description`` (where the data come from, in a sentence) head the report.
    """

    format: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    title: str = Field(default="", max_length=200)
    description: str = Field(default="", max_length=1000)
    task: Task
    input: Input
    model: Model
    training: Training
    privacy: Privacy
    federation: Federation
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _together(self) -> Study:
        if self.task.label_level == "slice" and (self.input.view != "axial" or self.input.slice_spacing_mm != 0):
            raise ValueError(
                "task.label_level 'slice' needs input.view 'axial' and input.slice_spacing_mm 0 "
                f"(got '{self.input.view}', {self.input.slice_spacing_mm}), so that a label meets its own slice"
            )
        if self.model.initial == "imagenet" and self.input.channels != NEIGHBOURS:
            raise ValueError(
                f"model.initial 'imagenet' takes 3 input channels; input.windows makes {self.input.channels}. Use one window"
            )
        pooling, level = self.model.pooling, self.task.label_level
        if (level == "slice" and pooling != "mean") or (level != "patient" and self.pools):
            raise ValueError(
                f"model.pooling '{pooling}' joins a patient's views; task.label_level '{level}' may give them several "
                "labels. Set label_level 'patient', or pooling 'mean'"
            )
        if pooling == "gru" and self.privacy.on:
            raise ValueError(
                "model.pooling 'gru' uses its weights once a view, and the private step can't clip that per patient; "
                "expected 'mean', 'max' or 'attention' with privacy.unit 'patient'"
            )
        if self.federation.strategy == "scaffold" and (self.training.optimizer != "sgd" or self.training.momentum != 0):
            raise ValueError(
                "federation.strategy 'scaffold' needs training.optimizer 'sgd' and training.momentum 0 "
                f"(got '{self.training.optimizer}', {self.training.momentum:g}): it reads a site's mean gradient off its update"
            )
        return self

    def canonical_json(self) -> str:
        """The one spelling of this study that is hashed, signed and sent."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, 64 hex digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    @property
    def cohort_settings(self) -> dict[str, Any]:
        """What shapes a cohort: task, input and split. One cohort serves all folds, so ``fold`` is not in it."""
        split = self.evaluation
        return {
            "task": self.task.model_dump(mode="json"),
            "input": self.input.model_dump(mode="json"),
            **({"holdout": split.holdout} if split.folds is None else {"folds": split.folds}),
            "split_seed": split.split_seed,
        }

    @property
    def cohort_digest(self) -> str:
        """``cohort_digest_of`` its ``cohort_settings``: studies that share it share a cohort."""
        return cohort_digest_of(self.cohort_settings)

    def of_fold(self, fold: int, folds: int) -> Study:
        """The study that keeps part ``fold`` (from 1) of ``folds`` out of training. Raises StudyError."""
        split = self.evaluation.model_dump() | {"holdout": HOLDOUT, "folds": folds, "fold": fold}
        return parse_study(self.model_dump(mode="json") | {"evaluation": split}, f"study '{self.name}'")

    def without_privacy(self) -> Study:
        """The same study with privacy off."""
        return self.model_copy(update={"privacy": Privacy(unit="off")})

    @property
    def pools(self) -> bool:
        """Whether the network takes a patient's views together, and learns to pool them."""
        return self.model.pooling in ("attention", "gru")

    @property
    def total_steps(self) -> int:
        """Training steps a site makes in the whole study."""
        return self.federation.rounds * self.training.local_steps

    def learning_rate(self, round_: int) -> float:
        """The learning rate of a round (from 1): constant, or half a cosine over the rounds."""
        base = self.training.learning_rate
        if self.training.schedule == "constant":
            return base
        return base * 0.5 * (1 + math.cos(math.pi * (round_ - 1) / self.federation.rounds))

    def evaluates_in(self, round_: int) -> bool:
        """Whether sites evaluate the model received in this round (it has ``round_ - 1`` rounds)."""
        return round_ > 1 and (round_ - 1) % self.evaluation.every == 0


def cohort_digest_of(settings: dict[str, Any]) -> str:
    """SHA-256 over ``Study.cohort_settings``, 64 hex digits."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no white space, ASCII only, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def describe(error: ValidationError, source: str) -> str:
    """Every problem of a pydantic error as ``key = value: what was expected``, joined by '; '."""
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = "unknown key; expected only the documented keys"
        shown = "" if isinstance(item["input"], dict) or item["type"] == "missing" else f" = {item['input']!r}"
        lines.append(f"{key}{shown}: {what}")
    return f"{source}: " + "; ".join(lines)


def parse_study(content: dict[str, Any], source: str = "study") -> Study:
    """Validate a study given as a mapping. Raises StudyError naming ``source``, key and value."""
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        raise StudyError(describe(error, source), "Correct the study file") from None


def study_from_json(text: str) -> Study:
    """Read back ``canonical_json``. Raises StudyError if it is not exactly that spelling."""
    try:
        content = json.loads(text)
    except ValueError:
        raise StudyError("the study received is not JSON") from None
    if not isinstance(content, dict):
        raise StudyError("the study received is not a JSON object")
    study = parse_study(content, "study received")
    if study.canonical_json() != text:
        raise StudyError("the study received is not in canonical form", "Send Study.canonical_json()")
    return study


def load_study(path: Path) -> Study:
    """Read and validate ``path``. Raises StudyError naming the file, key and value."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"study file '{path}' does not exist", "Give the path of a study.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(f"study file '{path}' can't be read ({error})") from None
    return study_from_toml(text, str(path))


def study_from_toml(text: str, source: str = "study") -> Study:
    """Validate a study written as TOML. Raises StudyError naming ``source``, key and value."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StudyError(f"study file '{source}' is not valid TOML: {error}") from None
    return parse_study(content, source)
