"""``report.html``: one self-contained page about a run.

The page loads nothing: styles and figures are in it, it has no script, and its content security
policy forbids the rest. All text is escaped, names of sites and classes included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from common import svg
from common.errors import RunError
from common.files import write_atomic
from common.pages import page_environment
from server.report import figures, story, words
from server.report.course import Course

if TYPE_CHECKING:
    from pathlib import Path

    from jinja2 import Environment

    from server.results import Estimate, Metrics, Results

_BEGIN, _END = "<main>\n", "</main>"  # as the template has them; what people wrote is escaped
SHARED_FIELDS = (
    ("Accuracy", "accuracy", True),
    ("Balanced accuracy", "balanced_accuracy", True),
    ("Mean F1", "macro_f1", False),
    ("Mean AUROC", "macro_auroc", False),
    ("Mean AUPRC", "macro_auprc", False),
    ("Kappa", "kappa", False),
)
CALIBRATION_FIELDS = (
    ("Log loss", "log_loss", False),
    ("Brier score", "brier", False),
    ("Calibration error", "calibration_error", False),
)
CLASS_FIELDS = (
    ("Sensitivity", "sensitivity", True),
    ("Specificity", "specificity", True),
    ("PPV", "ppv", True),
    ("NPV", "npv", True),
    ("F1", "f1", False),
    ("AUROC", "auroc", False),
    ("AUPRC", "auprc", False),
)


def render_report(results: Results, out: Path) -> Path:
    """Write the page to the file ``out``, whole or not at all, and return it. OSError passes through."""
    write_atomic(out, page(results).encode(), mode=0o644)
    return out


def page(results: Results) -> str:
    """The page as text."""
    return _environment().get_template("report.html.j2").render(_values(results))


def body(page_file: Path) -> str:
    """What stands between head and foot of a page that was written, for another page to hold: as it was drawn then.

    Raises RunError when the file is no such page; OSError passes through.
    """
    text = page_file.read_text(encoding="utf-8", errors="replace")
    start, end = text.find(_BEGIN), text.rfind(_END)
    if start < 0 or end < 0:
        raise RunError(f"'{page_file}' is no study report", "Restore the folder of the run from its copy")
    return text[start + len(_BEGIN) : end]


def _environment() -> Environment:
    environment = page_environment("server.report")
    environment.globals.update(words=words, value=words.value, interval=words.interval, basis=words.basis)
    return environment


def _values(results: Results) -> dict[str, Any]:
    """What the template shows."""
    pooled, course = results.final.pooled, Course.of(results)
    return {
        "results": results,
        "title": words.title(results),
        "warning": story.outcome(results),
        "summary": story.summary(results),
        "key_figures": story.key_figures(results),
        "facts": words.study_facts(results),
        "missed": story.missed(results),
        "contributions": story.contributions(results),
        "on_contributions": story.on_contributions(results),
        "privacy": story.privacy(results),
        "left_hospital": story.left_hospital(results),
        "limits": story.limits(results),
        "figures": {name: Markup(text) for name, text in figures_of(results, course).items()},  # noqa: S704 - made by svg.to_svg
        "how_hospitals": figures.how_hospitals(course),
        "models": [
            (key, label) for key, label, _ in figures.MODELS if key == "federated" or key in results.comparisons
        ],
        "rows": _hospital_rows(results),
        "overall": _overall(results) if pooled else [],
        "shared_fields": SHARED_FIELDS,
        "calibration_fields": CALIBRATION_FIELDS,
        "class_fields": CLASS_FIELDS,
        "calibration": story.calibration(results),
        "traffic": _traffic(results),
    }


def figures_of(results: Results, course: Course) -> dict[str, str]:
    """The figures that this run has something for, by name."""
    pooled = results.final.pooled
    found = {}
    with svg.style():
        if pooled is not None and pooled.cases > 0 and pooled.accuracy.note != "noise":
            found["confusion"] = figures.confusion(pooled)
        if pooled is not None and (curves := figures.readable_curves(results)):
            found["roc"] = figures.roc(curves, pooled)
        if any(curve.points for curve in results.final.reliability):
            found["reliability"] = figures.reliability(results.final.reliability)
        if figures.has_curve(course):
            central = results.comparisons["central"].pooled if "central" in results.comparisons else None
            accuracy, loss = (central.accuracy, central.log_loss) if central else (None, None)
            found["accuracy"] = figures.curve(course, "accuracy", "accuracy", share=True, central=accuracy)
            found["loss"] = figures.curve(course, "log_loss", "log loss", share=False, central=loss)
        if pooled is not None or results.comparisons:
            found["hospitals"] = figures.hospitals(results)
        if results.privacy.on and results.sites:
            found["privacy"] = figures.privacy(results)
        if results.rounds and results.sites:
            found["participation"] = figures.participation(course)
    return found


def _overall(results: Results) -> list[tuple[str, Metrics]]:
    """Models measured on everybody's held-out patients, by name."""
    found = [("trained together (federated)", results.final.pooled)]
    if "central" in results.comparisons:
        found.append(("all data in one place (central)", results.comparisons["central"].pooled))
    return [(name, metrics) for name, metrics in found if metrics is not None]


def _hospital_rows(results: Results) -> list[tuple[str, list[Estimate | None]]]:
    """For each hospital its accuracy by model, in the order of ``figures.MODELS``."""
    keys = [key for key, _, _ in figures.MODELS if key == "federated" or key in results.comparisons]
    return [(site.site, [figures.own_accuracy(results, key, site.site) for key in keys]) for site in results.sites]


def _traffic(results: Results) -> str:
    """Bytes moved and time taken, in words."""
    down = sum(record.bytes_down for record in results.rounds)
    up = sum(record.bytes_up for record in results.rounds)
    seconds = (results.finished - results.started).total_seconds()
    return f"{words.size(down)} to the hospitals, {words.size(up)} from them, in {words.duration(seconds)}"
