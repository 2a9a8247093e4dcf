"""``model-card.md`` and ``model-card.json``: what a model file is, for whoever finds it without the rest.

Sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.files import write_atomic
from common.model_card import CardClass, Figure, ModelCard, Trust
from server.report import story, words
from server.report.page import CALIBRATION_FIELDS, CLASS_FIELDS, SHARED_FIELDS

if TYPE_CHECKING:
    from server.results import Estimate, Results
    from server.run_folder import RunFolder

INTENDED_USE = (
    "Research on federated learning with CT. It is not a medical device, has no clearance, and must not be used to "
    "decide about a patient. It takes CT prepared exactly as the study says; on anything else its output means nothing."
)
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&!])")


def model_card(results: Results) -> str:
    """The card as Markdown. Text from the study and the sites is escaped: it can't add markup."""
    environment = Environment(
        loader=PackageLoader("server.report"),
        autoescape=False,  # noqa: S701 - Markdown, escaped by ``escape``
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["md"] = escape
    environment.globals.update(words=words, value=words.value, interval=words.interval, both=_both)
    text = environment.get_template("card.md.j2").render(
        results=results,
        title=escape(words.title(results)),
        warning=escape(story.outcome(results)),
        summary=escape(story.summary(results)),
        facts=[(heading, escape(text)) for heading, text in words.study_facts(results)],
        limits=[escape(line) for line in story.limits(results)],
        privacy=[escape(line) for line in story.privacy(results)],
        pooled=results.final.pooled,
        shared_fields=SHARED_FIELDS + CALIBRATION_FIELDS,
        intended_use=INTENDED_USE,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def write_cards(results: Results, folder: RunFolder) -> None:
    """Write both cards; the JSON only where there is a model to speak of."""
    write_atomic(folder.card_file, model_card(results).encode(), mode=0o644)
    if results.model_sha256:
        content = card_content(results).model_dump_json(indent=1) + "\n"
        write_atomic(folder.card_json, content.encode(), mode=0o644)


def card_content(results: Results) -> ModelCard:
    """The card for programs. Raises ValueError if the run made no model."""
    pooled = results.final.pooled
    return ModelCard(
        title=words.title(results),
        study_name=results.study_name,
        study_digest=results.study_digest,
        model_sha256=results.model_sha256,
        made=results.finished.strftime("%Y-%m-%dT%H:%M:%SZ"),
        simulated=results.simulated,
        facts=dict(words.study_facts(results)),
        intended_use=INTENDED_USE,
        limits=tuple(story.limits(results)),
        privacy=tuple(story.privacy(results)),
        cases=pooled.cases if pooled else None,
        figures=tuple(_figure(n, getattr(pooled, f)) for n, f, _ in SHARED_FIELDS + CALIBRATION_FIELDS)
        if pooled
        else (),
        classes=_classes(results),
        seed=results.seed,
        versions=results.versions,
    )


def _figure(name: str, estimate: Estimate) -> Figure:
    return Figure(name=name, value=estimate.value, low=estimate.low, high=estimate.high, note=estimate.note)


def _classes(results: Results) -> tuple[CardClass, ...]:
    curves = {curve.name: curve.points for curve in results.final.reliability}
    return tuple(
        CardClass(
            name=item.name,
            cases=item.cases,
            figures=tuple(_figure(name, getattr(item, field)) for name, field, _ in CLASS_FIELDS),
            reliability=tuple(
                Trust(
                    predicted=point.predicted,
                    observed=point.observed.value or 0.0,
                    low=point.observed.low or 0.0,
                    high=1.0 if point.observed.high is None else point.observed.high,
                    cases=point.observed.cases,
                )
                for point in curves.get(item.name, ())
            ),
        )
        for item in (results.final.pooled.classes if results.final.pooled else ())
    )


def escape(text: str) -> str:
    """``text`` on one line, with all that Markdown or HTML would read as markup escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _both(estimate: Estimate, *, share: bool = True) -> str:
    """Value and interval in one cell."""
    limits = words.interval(estimate, share=share)
    shown = words.value(estimate, share=share)
    return f"{shown} ({limits})" if limits else shown
