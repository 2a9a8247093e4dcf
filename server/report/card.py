"""``model-card.md``: what a model file is, for whoever finds it without the rest.

Sections follow Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from server.report import story, words
from server.report.page import SHARED_FIELDS

if TYPE_CHECKING:
    from server.results import Estimate, Results

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
        shared_fields=SHARED_FIELDS,
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def escape(text: str) -> str:
    """``text`` on one line, with all that Markdown or HTML would read as markup escaped."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _both(estimate: Estimate, *, share: bool = True) -> str:
    """Value and interval in one cell."""
    limits = words.interval(estimate, share=share)
    shown = words.value(estimate, share=share)
    return f"{shown} ({limits})" if limits else shown
