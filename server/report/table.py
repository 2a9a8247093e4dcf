"""The short table that ends a run on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from server.report import figures, words

if TYPE_CHECKING:
    from server.results import Estimate, Results


MOST_ROWS = 12  # the page has them all


def summary_table(results: Results) -> Table:
    """A row a hospital, without its number of patients: accuracy on its own held-out patients by model, and epsilon charged.

    The last row is over everybody's patients; for local models it is the mean over hospitals.
    """
    models = [(key, label) for key, label in _HEADINGS if key == "federated" or key in results.comparisons]
    table = Table(caption=_caption(results), caption_justify="left")
    table.add_column("hospital")
    for _, label in models:
        table.add_column(f"{label}\naccuracy, 95 %", justify="right")
    table.add_column("ε charged" if results.privacy.on else "privacy", justify="right")
    for site in results.sites[:MOST_ROWS]:
        cells = [_cell(figures.own_accuracy(results, key, site.site)) for key, _ in models]
        spent = words.epsilon(site.epsilon) if results.privacy.on else "off"
        table.add_row(Text(site.site), *cells, Text(spent))
    if len(results.sites) > MOST_ROWS:
        table.add_row(Text(f"and {len(results.sites) - MOST_ROWS} more", style="dim"))
    table.add_section()
    pooled = [_pooled(results, key) for key, _ in models]
    charged = [site.epsilon for site in results.sites if site.epsilon is not None]
    most = f"{words.epsilon(max(charged))} at most" if charged and results.privacy.on else ""
    table.add_row(Text("all", style="bold"), *pooled, Text(most))
    return table


_HEADINGS = (("local", "alone"), ("federated", "federated"), ("central", "central"))


def _cell(estimate: Estimate | None) -> Text:
    limits = words.interval(estimate)
    if limits:
        return Text(f"{words.value(estimate)} ({limits})")
    return Text(words.value(estimate), style="dim")


def _pooled(results: Results, key: str) -> Text:
    found = figures.pooled_accuracy(results, key)
    return Text(f"{words.percent(found)} on average") if isinstance(found, float) else _cell(found)


def _caption(results: Results) -> Text:
    """Mean AUROC of the federated model, or why the run has none."""
    pooled = results.final.pooled
    if pooled is None:
        return Text(
            "the final model was not evaluated: "
            + ("no counts released" if results.outcome == "finished" else results.outcome)
        )
    limits = words.interval(pooled.macro_auroc, share=False)
    area = words.value(pooled.macro_auroc, share=False)
    return Text(f"federated, all hospitals: mean AUROC {area}{f' ({limits})' if limits else ''}")
