"""A study in plain words, for the person who decides on it."""

from __future__ import annotations

from client.approval import CohortSize, Review
from client.site import WHOLE_DAY, Site
from common.models.size import first_message_bytes, later_message_bytes, parameter_count
from common.study import Study

_STAYS = {
    "none": "",
    "norm": " but for the normalisation, which stays here",
    "head": " but for the last layer, which stays here",
}

_POOLING = {
    "max": "A patient is judged by the largest probability of any view.",
    "attention": "A patient is judged by all its views together, weighed by attention.",
    "gru": "A patient is judged by all its views together, read from first to last (GRU).",
}


def plain(text: str) -> str:
    """What a coordinator wrote, with nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def lines(site: Site, study: Study, review: Review) -> list[str]:
    """What the study would do, with whose data, what would leave, and how it stands with the site's policy."""
    found = _heading(site, study, review)
    for heading, words in sections(site, study, review.cohort):
        found += [heading, *(f"  {line}" for line in words)]
    return found


def sections(site: Site, study: Study, cohort: CohortSize | None) -> list[tuple[str, list[str]]]:
    """The same without its head: a heading and its sentences each."""
    return [
        ("What it does", _work(study)),
        ("With whose data", _data(site, study, cohort)),
        ("What leaves the hospital", _releases(site, study)),
        ("This site's limits", _limits(site, study)),
    ]


def _heading(site: Site, study: Study, review: Review) -> list[str]:
    signed = f"signed by the coordinator at {site.config.coordinator.address}"
    if site.config.simulated:
        signed = "none; this is a simulated site"
    found = [f"Study '{study.name}': {plain(study.title)}" if study.title else f"Study '{study.name}'"]
    if study.description:
        found.append(f"  {plain(study.description)}")
    found.append(f"  digest     {study.digest}")
    found.append(f"  signature  {f'DOES NOT HOLD: {review.signature}' if review.signature else signed}")
    found.append(f"  approved   {'yes' if review.forecast.approved else 'no'}")
    return found


def _work(study: Study) -> list[str]:
    task, input_, training, federation = study.task, study.input, study.training, study.federation
    classes = ", ".join(map(plain, task.classes))
    labels = f"structure '{plain(task.structure)}'" if task.structure else f"column '{plain(task.label_column)}'"
    windows = ", ".join(f"{window.low:g} to {window.high:g} HU" for window in input_.windows)
    parameters = parameter_count(study)
    parts = {"all": "all", "norm+head": "normalisation and the last layer", "head": "the last layer"}
    return [
        f"It teaches a {study.model.name} to tell apart: {classes}; one label a {task.label_level}, from {labels}.",
        f"It sees {input_.view} planes of {input_.size} x {input_.size} pixels of {input_.spacing_mm:g} mm, at {windows}.",
        *([_POOLING[study.model.pooling]] if study.model.pooling != "mean" else []),
        f"Of {parameters / 1e6:.1f} million weights it trains {parts[study.model.trainable]}.",
        f"The first message with the model has {_amount(first_message_bytes(study))}, a later one and an update {_amount(later_message_bytes(study))}.",
        f"{_counted(federation.rounds, 'round')} of {_counted(training.local_steps, 'step')} each at every site, {study.total_steps:,} in all.",
        f"A round may last {federation.deadline_minutes:g} minutes, and needs {_counted(federation.minimum_sites, 'site')}.",
    ]


def _data(site: Site, study: Study, cohort: CohortSize | None) -> list[str]:
    where = f"CT in '{site.dicom_dir}'" + ("" if study.task.structure else f", labels in '{site.labels_file}'")
    if cohort is None:
        return [f"{where}: not ingested for it yet, so nobody knows how many patients take part."]
    drawn = f"each patient is drawn with probability {study.privacy.sampling_rate:g}"
    if study.privacy.sampling_rate is None:
        drawn = f"{study.training.batch_patients} patients are drawn"
    return [
        f"{where}: {cohort.training} patients train it, {cohort.held_out} are held out to evaluate it.",
        f"In each step {drawn}.",
    ]


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _amount(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def _releases(site: Site, study: Study) -> list[str]:
    privacy, stays = study.privacy, _STAYS[study.model.local]
    if privacy.on:
        update = (
            f"After each round the change of the weights{stays}, with noise: epsilon {privacy.epsilon:g} at delta "
            f"{privacy.delta:g} for each patient over all rounds."
        )
    else:
        update = f"After each round the change of the weights{stays}, WITHOUT noise: it can show what single patients look like."
    policy = site.config.policy
    counts = {
        "withheld": "No evaluation counts (policy.evaluation is 'withheld').",
        "noised": f"Evaluation counts with noise, {policy.evaluation_sigma:g} times as large as what one patient can change.",
        "exact": "EXACT evaluation counts, which show how many patients of each class are held out.",
    }
    groups = [name for name in study.evaluation.subgroups if name in policy.subgroups]
    if not groups or policy.evaluation == "withheld":
        return [update, counts[policy.evaluation]]
    return [update, counts[policy.evaluation], f"At the end, the same by {', '.join(groups)} (policy.subgroups)."]


def _limits(site: Site, study: Study) -> list[str]:
    policy = site.config.policy
    return [
        f"It makes {_counted(study.total_steps, 'training step')}, of at most {policy.max_steps:,}.",
        f"Its network has {parameter_count(study):,} weights, of at most {policy.max_parameters:,}.",
        f"Rounds are begun at most {policy.max_rounds_a_day:,} times a day, counting all studies.",
        f"They are begun at {'any hour' if policy.hours == WHOLE_DAY else policy.hours}, by this site's clock.",
    ]
