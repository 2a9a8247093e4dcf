"""``results.json``: what a run of a study found, as docs/results.md describes it.

The file is the one source of the report, the model card and the summary table. It holds no NaN:
what is undefined is null, and an ``Estimate`` says why in ``note``. Times are ISO 8601 in UTC,
probabilities and rates in [0, 1], losses in nats, sizes in bytes, durations in seconds.
"""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from common.errors import UsageError
from common.files import write_atomic
from common.study import describe

Text = Annotated[str, Field(max_length=1000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Tally = Annotated[int, Field(ge=0)]
Time = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
Note = Literal["", "no-cases", "few-cases", "noise"]
Status = Literal["ok", "refused", "failed", "late"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Frozen):
    """A figure with its 95 % interval, or the reason why there is none.

    ``hits`` of ``cases`` where the figure is a proportion; ``cases`` is what it rests on, in patients
    (estimated and possibly fractional). ``note`` is empty, or ``no-cases``, ``few-cases`` (fewer than
    5) or ``noise`` (too few against the noise of the release), and then ``value`` is None.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    hits: Amount | None = None
    cases: Amount = 0.0
    note: Note = ""


class ClassMetrics(_Frozen):
    """One class against the rest; ``cases`` are its patients."""

    name: Name
    cases: Amount
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    f1: Estimate
    auroc: Estimate
    auprc: Estimate = Estimate()


class Metrics(_Frozen):
    """What one set of counts says of one model; ``server.evaluation.evaluate`` builds it.

    ``confusion``: rows the true class, columns the predicted one, in patients, no negative entries.
    ``noise_std``: standard deviation of the noise on each count that was merged; 0 if all were exact.
    ``log_loss`` is in nats, ``kappa`` in [-1, 1], ``brier`` in [0, 2]; the other figures are in [0, 1].
    """

    cases: Amount
    noise_std: Amount = 0.0
    confusion: tuple[tuple[Amount, ...], ...]
    accuracy: Estimate
    balanced_accuracy: Estimate
    macro_f1: Estimate
    macro_auroc: Estimate
    macro_auprc: Estimate = Estimate()
    kappa: Estimate = Estimate()
    log_loss: Estimate
    brier: Estimate = Estimate()
    calibration_error: Estimate = Estimate()
    classes: tuple[ClassMetrics, ...]


class RocCurve(_Frozen):
    """ROC curve of one class against the rest, from (0, 0) to (1, 1), a point a score bin."""

    name: Name
    false_positive_rate: tuple[Share, ...]
    true_positive_rate: tuple[Share, ...]


class ReliabilityPoint(_Frozen):
    """Cases to which similar probabilities were given: their mean, and the share that were of the class."""

    predicted: Share
    observed: Estimate


class ReliabilityCurve(_Frozen):
    """Predicted against observed for one class, where there were enough cases; from low to high."""

    name: Name
    points: tuple[ReliabilityPoint, ...]


class OperatingPoint(_Frozen):
    """From which probability on to call a class so that ``wanted`` of its cases are called, and what that gives.

    ``threshold`` is chosen on all hospitals together; sensitivity and specificity are those of each hospital's
    cases at the threshold that the other hospitals choose.
    """

    name: Name
    wanted: Share
    threshold: Share
    sensitivity: Estimate
    specificity: Estimate


class Band(_Frozen):
    """Cases of one band: accuracy, and ``gap``, how far it is above (below: negative) that of all other cases."""

    name: Name
    accuracy: Estimate
    gap: Estimate


class Subgroup(_Frozen):
    """The final model by one attribute (``common.subgroups``), over the ``sites`` whose policy permits it."""

    attribute: Name
    sites: tuple[Name, ...]
    bands: tuple[Band, ...]


class FinalMetrics(_Frozen):
    """The final model on held-out patients: of all hospitals that released counts, and of each."""

    pooled: Metrics | None = None
    per_site: dict[Name, Metrics] = {}
    roc: tuple[RocCurve, ...] = ()
    reliability: tuple[ReliabilityCurve, ...] = ()
    operating: tuple[OperatingPoint, ...] = ()
    subgroups: tuple[Subgroup, ...] = ()


class Comparison(_Frozen):
    """What the same study gives without federation.

    ``per_site``: by hospital, on its own held-out patients. ``pooled``: the central model on
    everybody's. ``pooled_per_site``: each hospital's local model on everybody's.
    """

    kind: Literal["local", "central"]
    description: Text = ""
    pooled: Metrics | None = None
    per_site: dict[Name, Metrics] = {}
    pooled_per_site: dict[Name, Metrics] = {}


class Participation(_Frozen):
    """What became of one site in one round. ``reason``: a short code (``common.errors``), or empty."""

    site: Name
    status: Status
    reason: Annotated[str, Field(max_length=200)] = ""
    seconds: Amount | None = None


class Contribution(_Frozen):
    """What one site's update did to its round (``server.contribution``); None where nothing moved.

    ``agreement``: cosine between its update and the mean of the others', -1 to 1. ``shift``: how far the mean update
    would lie elsewhere without it, in lengths of the mean update.
    """

    agreement: Annotated[float, Field(ge=-1, le=1)] | None
    shift: Amount | None


class RoundRecord(_Frozen):
    """One round. ``metrics`` are those of a model that had ``model_round`` rounds of training.

    ``weights_sha256``: of the global model after the round (``common.models.metadata``).
    ``contributions``: by site, where at least two updates were used.
    """

    round: Annotated[int, Field(ge=1)]
    seconds: Amount
    bytes_down: Tally
    bytes_up: Tally
    participation: tuple[Participation, ...]
    model_round: Tally | None = None
    metrics: Metrics | None = None
    site_metrics: dict[Name, Metrics] = {}
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    contributions: dict[Name, Contribution] = {}


class SiteSummary(_Frozen):
    """One site over the whole run.

    ``epsilon`` at ``delta``: privacy that this study was charged at this site, as the site released
    it; None if it did not say or privacy is off. ``evaluation``: how its counts left.
    """

    site: Name
    rounds_ok: Tally
    rounds_missed: Tally
    epsilon: Amount | None = None
    delta: Share | None = None
    evaluation: Literal["exact", "noised", "withheld"]


class PrivacySummary(_Frozen):
    """The privacy claim of the study; with ``on`` false the other fields are empty."""

    on: bool
    unit: Text = ""
    relation: Text = ""
    epsilon: Amount | None = None
    delta: Share | None = None
    accountant: Text = ""
    sigma: Amount | None = None
    sampling_rate: Share | None = None
    clip: Amount | None = None
    steps_per_round: Tally | None = None
    rounds: Tally | None = None


class Results(_Frozen):
    """Content of ``results.json``.

    ``study`` is the whole study as ``Study.model_dump(mode="json")`` gives it. ``simulated``: the
    sites were simulated on one machine. ``data``: one sentence on where the data come from, or empty.
    ``reason`` says why ``outcome`` is not ``finished``.
    """

    format: Literal[1] = 1
    study_name: Name
    study_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    study: dict[str, Any]
    started: Time
    finished: Time
    seed: int
    simulated: bool = False
    data: Text = ""
    versions: dict[Name, Text]
    outcome: Literal["finished", "failed"]
    reason: str = ""
    model_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    sites: tuple[SiteSummary, ...]
    rounds: tuple[RoundRecord, ...]
    final: FinalMetrics = FinalMetrics()
    comparisons: dict[Literal["local", "central"], Comparison] = {}
    privacy: PrivacySummary


def write_results(results: Results, path: Path) -> None:
    """Write ``results.json``, whole or not at all. OSError passes through."""
    write_atomic(path, (results.model_dump_json(indent=1) + "\n").encode())


def read_results(path: Path) -> Results:
    """Read a ``results.json``. Raises UsageError naming the file, key and value."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"results file '{path}' does not exist", "Give the results.json of a run") from None
    except OSError as error:
        raise UsageError(
            f"results file '{path}' can't be read ({error.strerror})", "Check its owner and mode"
        ) from None
    try:
        return Results.model_validate_json(content)
    except ValidationError as error:
        raise UsageError(describe(error, str(path)), "Expected a results.json of format 1") from None
