"""The table on the terminal."""

from __future__ import annotations

import io
import re

from rich.console import Console

from server.report import summary_table


def shown(results):
    console = Console(file=io.StringIO(), width=140)
    console.print(summary_table(results))
    return console.file.getvalue()


def test_a_row_for_each_hospital_and_one_for_all(results_of):
    results = results_of()
    text = shown(results)
    for site in results.sites:
        line = next(line for line in text.splitlines() if site.site in line)
        own = results.final.per_site[site.site].accuracy
        assert f"{100 * own.value:.1f}\u00a0% ({100 * own.low:.1f}–{100 * own.high:.1f})" in line
        assert f"{site.epsilon:.2f}" in line
    assert f"mean AUROC {results.final.pooled.macro_auroc.value:.3f}" in text
    assert "on average" in text
    for heading in ("alone", "federated", "central", "ε charged"):
        assert heading in text


def test_no_number_of_patients_is_printed(results_of):
    assert not re.search(r"(?<![\d.])28(?![\d.])", shown(results_of(patients=28)))
    assert " of " not in shown(results_of(patients=2, sites=2, rounds=1, comparisons=False))


def test_names_are_not_read_as_markup(results_of):
    assert "[red]x[/red]" in shown(results_of(names=("[red]x[/red]", "b"), rounds=1))


def test_many_hospitals_are_cut_short(results_of):
    text = shown(results_of(sites=50, rounds=1, comparisons=False))
    assert "hospital-12" in text
    assert "hospital-13" not in text
    assert "and 38 more" in text


def test_a_run_without_evaluation_says_so(results_of):
    assert "not evaluated: no counts released" in " ".join(
        shown(results_of(evaluation="withheld", comparisons=False, rounds=1)).split()
    )
    failed = results_of(outcome="failed", comparisons=False, rounds=1, reason="x")
    assert "not evaluated: failed" in shown(failed)
