"""Figures and facts of a run as words for a reader who does not know the code."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from server.results import Estimate, Results

DASH = "–"
MINUS = "−"
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
STATUS = {
    "ok": "took part",
    "late": "answered too late",
    "refused": "refused",
    "failed": "failed",
}
REASONS = {
    "policy-refused": "its policy does not allow this study",
    "budget-exceeded": "its privacy budget would have been overrun",
    "data-unusable": "its data could not be used",
    "site-invalid": "its installation is not complete",
    "ledger-damaged": "its privacy ledger failed its own checks",
    "storage": "its disk is full or can't be written",
    "study-invalid": "it found the study invalid",
    "run-failed": "the computation stopped",
    "error": "an error at the site",
    "internal-error": "an error at the site; its audit log has the text",
    "policy-1-not-approved": "it has not approved this study",
    "policy-2-privacy-required": "its policy asks for privacy, and the study has none",
    "policy-3-epsilon": "its policy allows a smaller epsilon only",
    "policy-4-delta": "its policy allows a smaller delta only",
    "policy-5-round": "it was asked for a round that the study does not have",
    "policy-6-steps": "its policy allows fewer steps only",
    "policy-7-model": "its policy allows a smaller network only",
    "policy-8-rounds-a-day": "it had begun as many rounds in a day as its policy allows",
    "policy-9-hours": "its policy allows rounds at other hours only",
    "not-trusted": "a key or signature did not hold",
    "coordinator-invalid": "an error at the site",
    "deadline": "no answer before the deadline",
    "offline": "its connection was lost",
    "busy": "it was still at work on an earlier round",
    "lost": "the message to it was lost on its way",
    "base-missing": "it had lost the part of the model that is sent once; that goes with the next message",
    "update-too-large": "its update was longer than the study allows",
    "bundle-digest": "it was handed other settings than the run names",
    "bundle-unreadable": "the settings that it was handed can't be read",
    "bundle-holds-code": "the settings that it was handed hold code",
    "bundle-component": "the settings that it was handed ask for another program",
    "task-not-for-sites": "it was handed a task that is not one for sites",
    "wrong-site": "its node was admitted under another name",
    "not-ready": "it is not ready, and did not say why",
    "bad-reply": "its reply did not fit the schema",
    "wrong-reply": "its reply was for another round, study or site",
    "bad-hello": "its first answer did not fit the schema",
    "name-taken": "another node had taken its name",
}
NOTES = {
    "no-cases": "no cases",
    "few-cases": "too few cases",
    "noise": "lost in the noise",
}


def percent(value: float) -> str:
    """0.8623 as ``86.2 %``; the space does not break."""
    return f"{100 * value:.1f}\u00a0%"


def number(value: float) -> str:
    """A count: whole if it is whole, else with one decimal; thousands apart."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"


def spelled(count: int) -> str:
    """A number that starts a sentence: in letters up to twelve."""
    letters = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")
    return letters[count] if count < len(letters) else f"{count:,}"


def patients(value: float) -> str:
    """``1 patient``, ``12 patients``."""
    text = number(value)
    return f"{text} patient" if text == "1" else f"{text} patients"


def sites(count: int) -> str:
    """``1 site``, ``12 sites``."""
    return "1 site" if count == 1 else f"{count:,} sites"


def figure(value: float | None) -> str:
    """A real number to three digits, small ones as a power of ten."""
    if value is None:
        return DASH
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return (f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", "−")
    power = math.floor(math.log10(abs(value)))
    mantissa = f"{value / 10.0**power:.3g}"
    ten = f"10{str(power).translate(SUPERSCRIPTS)}"
    return ten if mantissa == "1" else f"{mantissa} × {ten}"


def epsilon(spent: float | None) -> str:
    """A charge, always to two decimals so that hospitals compare."""
    return DASH if spent is None else f"{spent:.2f}"


def size(count: float) -> str:
    """Bytes as kB, MB or GB (powers of 1000)."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g}\u00a0{unit}"
    return f"{count:.0f}\u00a0bytes"


def duration(seconds: float) -> str:
    """Seconds as the two largest units."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")]
    shown = [f"{amount}\u00a0{unit}" for amount, unit in parts if amount]
    return " ".join(shown[:2]) or "under 1\u00a0s"


def value(estimate: Estimate | None, *, share: bool = True) -> str:
    """The figure alone, or why there is none. ``share``: show it as a percentage."""
    if estimate is None:
        return DASH
    if estimate.value is None:
        return NOTES.get(estimate.note, DASH)
    return percent(estimate.value) if share else f"{estimate.value:.3f}"


def interval(estimate: Estimate | None, *, share: bool = True) -> str:
    """The limits of the interval, without the level; empty if there are none."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    if share:
        return f"{100 * estimate.low:.1f}{DASH}{100 * estimate.high:.1f}"
    return f"{estimate.low:.3f}{DASH}{estimate.high:.3f}"


def points(difference: Estimate) -> str:
    """A difference of shares in points, or why there is none: ``+3.1``."""
    if difference.value is None:
        return NOTES.get(difference.note, DASH)
    return f"{'+' if difference.value > 0 else ''}{_point(difference.value)}"


def points_interval(difference: Estimate) -> str:
    """Its limits: ``−4.0 to 9.8``; empty if there are none."""
    if difference.low is None or difference.high is None:
        return ""
    return f"{_point(difference.low)} to {_point(difference.high)}"


def _point(share: float) -> str:
    return f"{100 * share:.1f}".replace("-", MINUS)


def cases(amount: float, estimate: Estimate, noise_std: float) -> str:
    """How many cases there are: ``≈ 58`` if counts are noised, a dash if the noise drowns them."""
    if noise_std == 0:
        return number(amount)
    return DASH if estimate.note == "noise" else f"≈\u00a0{amount:,.0f}"


def basis(estimate: Estimate | None) -> str:
    """What the figure rests on: ``129 of 141``, or the number of cases."""
    if estimate is None or (estimate.note == "noise" and estimate.value is None):
        return ""
    if estimate.hits is not None and estimate.cases:
        return f"{number(estimate.hits)} of {number(estimate.cases)}"
    return number(estimate.cases)


def joined(items: Iterable[str], last: str = "and") -> str:
    """``a, b and c``."""
    names = list(items)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}" if names else ""


def spans(rounds: Sequence[int]) -> str:
    """Sorted round numbers with neighbours joined: ``1–3, 7``."""
    parts: list[list[int]] = []
    for item in sorted(rounds):
        if parts and item == parts[-1][-1] + 1:
            parts[-1].append(item)
        else:
            parts.append([item])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}{DASH}{part[-1]}" for part in parts)


def reason(code: str) -> str:
    """A reason code in words; an unknown code is shown as it is."""
    return REASONS.get(code, code)


def title(results: Results) -> str:
    """The study's title, or its name."""
    return str(results.study.get("title") or results.study_name)


def class_list(study: dict[str, Any]) -> str:
    """The classes by name, or how many if they are many."""
    classes = [str(item) for item in get(study, "task.classes", [])]
    return joined(classes) if len(classes) <= 6 else f"{len(classes)} classes"


def get(study: dict[str, Any], path: str, default: Any = None) -> Any:
    """A value of the study by dotted path; ``default`` where the study has none."""
    found: Any = study
    for part in path.split("."):
        if not isinstance(found, dict) or part not in found:
            return default
        found = found[part]
    return found


def study_facts(results: Results) -> list[tuple[str, str]]:
    """What was done, as pairs of heading and sentence."""
    return plan_facts(results.study, results.data)


def plan_facts(study: dict[str, Any], data: str) -> list[tuple[str, str]]:
    """A study in plain words, as pairs of heading and sentence. ``data``: where the data come from, or empty."""
    facts = [("Task", _task(study)), ("Input", _input(study)), ("Model", _model(study))]
    facts += [("Training", _training(study)), ("Held out", _held_out(study))]
    if data:
        facts.insert(0, ("Data", data))
    return [(heading, text) for heading, text in facts if text]


def _task(study: dict[str, Any]) -> str:
    classes = get(study, "task.classes", [])
    if not classes:
        return ""
    level = get(study, "task.label_level", "patient")
    unit = (
        "CT slice"
        if level == "slice"
        else "CT series"
        if level == "series"
        else "CT study"
        if level == "study"
        else "patient"
    )
    return f"Tell {joined(map(str, classes))} apart; the reference is one label for each {unit}."


def _input(study: dict[str, Any]) -> str:
    pixels, spacing = get(study, "input.size"), get(study, "input.spacing_mm")
    if pixels is None or spacing is None:
        return ""
    view = get(study, "input.view", "axial")
    windows = [
        f"{figure(w['low'])} to {figure(w['high'])} HU"
        for w in get(study, "input.windows", [])
        if {"low", "high"} <= set(w)
    ]
    window = f", shown from {joined(windows)}" if windows else ""
    return (
        f"{str(view).capitalize()} planes of {pixels} × {pixels} pixels at {figure(spacing)} mm "
        f"({figure(pixels * spacing)} mm across), three neighbouring planes at a time{window}."
    )


def _model(study: dict[str, Any]) -> str:
    name = get(study, "model.name")
    if name is None:
        return ""
    initial = get(study, "model.initial", "none")
    start = {"none": "from random weights", "imagenet": "from weights trained on photographs (ImageNet)"}
    trainable = {"all": "all weights", "norm+head": "normalisation layers and the last layer", "head": "the last layer"}
    trained = trainable.get(str(get(study, "model.trainable", "all")), "")
    pooling = {
        "max": " A patient's decision takes the largest probability of any view.",
        "attention": " It weighs a patient's views by attention and decides from all of them.",
        "gru": " It reads a patient's views in order (GRU) and decides from all of them.",
    }.get(str(get(study, "model.pooling", "mean")), "")
    begun = start.get(str(initial), "from a file of weights")
    return f"{network(study)}, started {begun}; trained: {trained}.{pooling}"


def network(study: dict[str, Any]) -> str:
    """``ResNet-18`` for resnet18."""
    name = str(get(study, "model.name", "network"))
    return name.replace("resnet", "ResNet-").replace("plain18", "plain network of 18 layers")


def _training(study: dict[str, Any]) -> str:
    steps, rounds = get(study, "training.local_steps"), get(study, "federation.rounds")
    if steps is None or rounds is None:
        return ""
    strategy = {
        "fedavg": "averages them",
        "fedprox": "averages them",
        "scaffold": "averages them and corrects each hospital's drift",
        "fedavgm": "averages them with momentum",
        "median": "takes the median of each weight",
        "trimmed-mean": "averages them without the highest and lowest of each weight",
        "multi-krum": "averages those that lie near each other",
    }
    joining = strategy.get(str(get(study, "federation.strategy")), "combines them with an adaptive optimizer")
    optimizer = {"sgd": "SGD", "adamw": "AdamW"}.get(str(get(study, "training.optimizer")), "")
    return (
        f"{rounds} {'round' if rounds == 1 else 'rounds'} planned. In each, every hospital trains {steps} "
        f"{'step' if steps == 1 else 'steps'} on its own patients ({optimizer}, learning rate "
        f"{figure(get(study, 'training.learning_rate'))}) and sends the change of the weights; the coordinator {joining}."
    )


def _held_out(study: dict[str, Any]) -> str:
    share = get(study, "evaluation.holdout")
    if share is None:
        return ""
    text = f"Each hospital keeps about {figure(100 * share)} % of its patients out of training and tests on them."
    if folds := get(study, "evaluation.folds"):
        text = (
            f"Each hospital's patients are split into {folds} folds; fold {get(study, 'evaluation.fold')} is kept out "
            "of training, and tested on."
        )
    if get(study, "task.label_level") in ("slice", "series", "study"):
        text += " A patient with several labelled images counts as one case, shared among the images."
    return text
