"""What the run says, in sentences: summary, key figures, who missed, privacy, limits.

The page and the model card tell the same story from here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from server.report import words

if TYPE_CHECKING:
    from server.results import Estimate, Results

FEW_PATIENTS = 100  # below this many held-out patients the page warns


@dataclass(frozen=True)
class KeyFigure:
    """A figure at the head of the page: its name, its value and a line below."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Missed:
    """Rounds that a site missed in the same way for the same reason."""

    site: str
    status: str
    reason: str
    rounds: str
    count: int


@dataclass(frozen=True)
class Pull:
    """A site's contribution: means over ``rounds``, and the lowest and highest agreement."""

    site: str
    agreement: float
    lowest: float
    highest: float
    shift: float
    rounds: int


def summary(results: Results) -> str:
    """One paragraph: who did what, what came of it, at what privacy."""
    return " ".join(part for part in (_who(results), _result(results), _against(results), _privacy(results)) if part)


def outcome(results: Results) -> str:
    """A warning if the run did not finish, else empty."""
    if results.outcome == "finished":
        return ""
    done = len(results.rounds)
    reason = f": {results.reason.rstrip('.')}" if results.reason else ""
    rounds = "no round was" if done == 0 else f"{done} {'round was' if done == 1 else 'rounds were'}"
    return f"This run failed{reason}. Before that, {rounds} complete; all that follows is about those."


def key_figures(results: Results) -> list[KeyFigure]:
    """Accuracy, AUROC, privacy and participation."""
    pooled = results.final.pooled
    found = []
    if pooled is not None:
        found.append(_key("Accuracy", pooled.accuracy, words.basis(pooled.accuracy)))
        found.append(_key("Mean AUROC", pooled.macro_auroc, "", share=False))
    else:
        detail = "no hospital released its evaluation" if results.outcome == "finished" else "the run did not finish"
        found.append(KeyFigure("Accuracy", "not known", detail))
    found.append(_key_privacy(results))
    asked = sum(len(record.participation) for record in results.rounds)
    answered = sum(p.status == "ok" for record in results.rounds for p in record.participation)
    rounds = len(results.rounds)
    took_part = f"{answered:,} of {asked:,} answers arrived" if asked else "nobody was asked"
    found.append(KeyFigure("Rounds", str(rounds), took_part))
    return found


def calibration(results: Results) -> str:
    """How often the model was right where it was surest, for the class of which there are most such cases."""
    sure = [
        (one.name, one.points[-1]) for one in results.final.reliability if one.points and one.points[-1].predicted > 0.5
    ]
    if not sure:
        return ""
    name, point = max(sure, key=lambda item: item[1].observed.cases)
    return (
        f"Where it was surest of {name}, it said {words.percent(point.predicted)} on average, and "
        f"{words.value(point.observed)} ({words.interval(point.observed)}) of these cases were."
    )


def missed(results: Results) -> list[Missed]:
    """Every round that a site did not complete, grouped by site, status and reason."""
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for record in results.rounds:
        for item in record.participation:
            if item.status != "ok":
                groups[item.site, item.status, item.reason].append(record.round)
    return [
        Missed(site, words.STATUS[status], words.reason(reason), words.spans(rounds), len(rounds))
        for (site, status, reason), rounds in sorted(groups.items())
    ]


def contributions(results: Results) -> list[Pull]:
    """What each site's updates did to the rounds that they were in, on average; empty where none is known."""
    found = []
    for site in results.sites:
        own = [r.contributions[site.site] for r in results.rounds if site.site in r.contributions]
        agreement = [one.agreement for one in own if one.agreement is not None]
        shift = [one.shift for one in own if one.shift is not None]
        if agreement and shift:
            pull, moved = sum(agreement) / len(agreement), sum(shift) / len(shift)
            found.append(Pull(site.site, pull, min(agreement), max(agreement), moved, len(agreement)))
    return found


def on_contributions(results: Results) -> str:
    """How to read them, and what they cost."""
    text = (
        "Made of the updates that the coordinator had received already, so no patient's privacy was charged for it. "
        "Agreement: 1 where a hospital's update points where the mean of the others' does, 0 where they have nothing in "
        "common. Shift: how far the round's mean update would lie elsewhere without the hospital, in lengths of that mean. "
        "A hospital that disagrees may bring what the others lack, or may be wrong: these figures can't tell."
    )
    if results.privacy.on:
        text += " The noise of privacy takes agreement towards 0 and shift up, however alike the hospitals are."
    return text


def privacy(results: Results) -> list[str]:
    """What the privacy claim means, a sentence a line."""
    claim = results.privacy
    if not claim.on:
        return [
            (
                "Training was not differentially private. Updates carried no noise, and whoever reads them may "
                "learn about single patients. Use such a run only where every hospital has agreed to it."
            )
        ]
    epsilon = claim.epsilon or 0.0
    factor = words.figure(math.exp(epsilon)) if epsilon < 30 else "a number too large to be of use"
    lines = [
        (
            f"The unit is one {claim.unit}, with all images of that {claim.unit}. The relation is: {claim.relation}. "
            f"The claim is ε = {words.figure(epsilon)} at δ = {words.figure(claim.delta)}, computed by {claim.accountant}."
        ),
        (
            f"In words: whoever sees all the noised releases of a hospital can multiply the odds of “this {claim.unit} was in "
            f"the data” by at most {factor}, except with a probability of about {words.figure(claim.delta)}. That bound "
            "holds even against someone who knows everything else; a smaller ε is a stronger one."
        ),
    ]
    if claim.sigma is not None and claim.clip is not None:
        lines.append(
            f"How: at each step every {claim.unit} was drawn with probability {words.figure(claim.sampling_rate)}, its "
            f"gradient was cut to a length of {words.figure(claim.clip)}, and Gaussian noise of {words.figure(claim.sigma)} "
            f"times that length was added before anything left the hospital; {claim.steps_per_round} steps in each of "
            f"{claim.rounds} rounds."
        )
    if any(site.evaluation == "exact" for site in results.sites):
        lines.append(
            "Exact evaluation counts are outside this claim: they carry no noise. They are about the held-out patients."
        )
    over = [site.site for site in results.sites if site.epsilon is not None and site.epsilon > epsilon * (1 + 1e-6)]
    if over:
        lines.append(
            "A hospital is charged for its noised evaluation counts and for repeated rounds as well as for training; "
            f"at {words.joined(over)} the sum is above the study's ε. No hospital exceeds its own limit."
        )
    return lines


def left_hospital(results: Results) -> list[str]:
    """What was released, a sentence a line."""
    noised = "with noise added" if results.privacy.on else "without noise"
    lines = [f"Model updates, {noised}: one in each round that a hospital completed."]
    if results.privacy.on:
        lines.append("The ε that the study was charged at the hospital.")
    sentences = {
        "exact": "Exact evaluation counts (confusion matrix and score histograms) left {}, as its policy allows.",
        "noised": "Evaluation counts with noise added left {}.",
        "withheld": "No evaluation counts left {}.",
    }
    for mode, sentence in sentences.items():
        names = [site.site for site in results.sites if site.evaluation == mode]
        if names:
            everyone = "each hospital" if len(names) == len(results.sites) else None
            lines.append(sentence.format(everyone or _few_names(names)))
    lines += [
        f"At the end, counts by {group.attribute} left {_few_names(list(group.sites))}, as its policy allows."
        for group in results.final.subgroups
    ]
    lines.append("That the hospital took part, how long it took, or a short reason why it did not.")
    lines.append("No image, header, file name or record of a single patient.")
    return lines


def limits(results: Results) -> list[str]:
    """What the reader must not conclude."""
    lines = ["This is research software and not a medical device; nothing here supports a decision about a patient."]
    if results.simulated:
        lines.append("The hospitals were simulated on one machine; no real hospital took part in this run.")
    pooled = results.final.pooled
    if pooled is not None:
        lines += _small_numbers(results)
        lines.append(
            "Intervals are 95 % for other patients drawn from the same hospitals. They do not cover other hospitals, "
            "scanners or case mixes, nor what another random start of training would give."
        )
        lines.append("PPV and NPV hold for this case mix only; elsewhere they change with the share of each class.")
        if pooled.noise_std > 0:
            lines.append(
                f"Evaluation counts carry noise with a standard deviation of {words.figure(pooled.noise_std)} patients an "
                "entry. Intervals are widened for it; counts shown are the nearest that could be real."
            )
    withheld = sum(site.evaluation == "withheld" for site in results.sites)
    if withheld:
        lines.append(
            f"{withheld} of {len(results.sites)} hospitals released no evaluation, so the figures are without them."
        )
    if any(site.rounds_missed for site in results.sites):
        lines.append("Not every hospital took part in every round; the model leans towards those that did.")
    if len(results.sites) == 1:
        lines.append("Only one hospital took part: this is not a test of federation.")
    return lines


def _small_numbers(results: Results) -> list[str]:
    pooled = results.final.pooled
    if pooled is None:
        return []
    lines = []
    if pooled.cases < FEW_PATIENTS:
        lines.append(
            f"The figures rest on {words.patients(pooled.cases)}: differences of several points may be chance."
        )
    few = [item.name for item in pooled.classes if item.sensitivity.value is None]
    if few:
        lines.append(f"There are too few cases to judge {words.joined(few)}.")
    return lines


def _who(results: Results) -> str:
    count = len(results.sites)
    kind = "simulated hospital" if results.simulated else "hospital"
    hospitals = f"{words.spelled(count)} {kind}{'' if count == 1 else 's'}"
    if count == 0:
        return "No hospital joined this study."
    classes = words.class_list(results.study)
    purpose = f" to tell {classes} apart on CT" if classes else ""
    together = "" if count == 1 else " together"
    rounds = len(results.rounds)
    length = f" in {rounds} {'round' if rounds == 1 else 'rounds'}"
    return f"{hospitals} trained a {words.network(results.study)}{together}{purpose}{length}, without moving any patient's data."


def _result(results: Results) -> str:
    pooled = results.final.pooled
    if pooled is None:
        return "No hospital released evaluation counts of the final model." if results.outcome == "finished" else ""
    estimate = pooled.accuracy
    if estimate.value is None:
        return f"How good the final model is can't be said: {_why_not(estimate)}."
    text = (
        f"The final model was right in {words.percent(estimate.value)} of {words.patients(estimate.cases)} whom it had "
        f"not seen (95 % interval {words.interval(estimate)} %)"
    )
    area = pooled.macro_auroc
    return f"{text}, with a mean AUROC of {area.value:.3f}." if area.value is not None else f"{text}."


def _why_not(estimate: Estimate) -> str:
    if estimate.note == "noise":
        return "the noise on the released counts is too large for so few patients"
    if estimate.note == "few-cases":
        return f"only {words.patients(estimate.cases)} were held out ({words.basis(estimate)} right)"
    return "no patients were held out"


def _against(results: Results) -> str:
    from server.report.figures import mean_local

    parts = []
    local = mean_local(results)
    if local is not None:
        parts.append(f"a hospital on its own reached {words.percent(local)} on average on the same patients")
    central = results.comparisons.get("central")
    if central and central.pooled and central.pooled.accuracy.value is not None:
        parts.append(f"training with all data in one place reached {words.percent(central.pooled.accuracy.value)}")
    return f"For comparison, {words.joined(parts)}." if parts else ""


def _privacy(results: Results) -> str:
    if not results.privacy.on:
        return "Training was not differentially private."
    return (
        f"Each {results.privacy.unit}'s influence was limited by differential privacy "
        f"(ε\u00a0=\u00a0{words.figure(results.privacy.epsilon)}, δ\u00a0=\u00a0{words.figure(results.privacy.delta)})."
    )


def _key(name: str, estimate: Estimate, detail: str, *, share: bool = True) -> KeyFigure:
    interval = words.interval(estimate, share=share)
    lines = [f"95 % interval {interval}" if interval else "", detail]
    return KeyFigure(name, words.value(estimate, share=share), "; ".join(line for line in lines if line))


def _key_privacy(results: Results) -> KeyFigure:
    if not results.privacy.on:
        return KeyFigure("Privacy", "off", "no differential privacy")
    charged = [site.epsilon for site in results.sites if site.epsilon is not None]
    most = f"; most charged {words.epsilon(max(charged))}" if charged else ""
    return KeyFigure(
        "Privacy, a patient",
        f"ε = {words.figure(results.privacy.epsilon)}",
        f"δ = {words.figure(results.privacy.delta)}{most}",
    )


def _few_names(names: list[str]) -> str:
    """All names if they are few, else how many."""
    return words.joined(names) if len(names) <= 6 else f"{len(names)} hospitals"
