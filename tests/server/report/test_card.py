"""The model card."""

from __future__ import annotations

from server.report import model_card
from server.report.card import escape


def test_a_card_has_what_a_reader_of_the_model_file_needs(results_of):
    results = results_of()
    card = model_card(results)
    pooled = results.final.pooled
    for heading in ("What it is", "Intended use", "Results on held-out patients", "Limits", "Privacy", "Provenance"):
        assert f"\n## {heading}\n" in card
    assert f"| Accuracy | {100 * pooled.accuracy.value:.1f}\u00a0% |" in card
    assert results.study_digest in card
    assert results.model_sha256 in card
    assert "not a medical device" in card
    assert "ε = 8 at δ = 0.001" in card


def test_a_card_of_a_run_without_figures_says_so(results_of):
    card = model_card(results_of(evaluation="withheld", comparisons=False, rounds=2))
    assert "None were released." in card
    failed = model_card(results_of(outcome="failed", reason="quorum", rounds=2, comparisons=False))
    assert "**This run failed: quorum." in failed
    assert "no model was written" in failed


def test_names_can_not_add_markup(results_of):
    names = ("<script>alert(1)</script>", "[x](http://evil.example)", "a | b\n\n# Heading")
    card = model_card(results_of(classes=names, title="**bold**", rounds=1, patients=60))
    assert "<script" not in card.replace("\\<script", "")
    assert "\\[x\\]" in card
    assert "\n# Heading" not in card
    assert "\\*\\*bold" in card


def test_escape_leaves_plain_text_alone():
    assert escape("Plain text, 12.5 % (95–97).") == "Plain text, 12.5 % (95–97)."
    assert escape("a\n b|c") == "a b\\|c"


def test_tables_have_the_same_number_of_cells_in_each_row(results_of):
    rows = [line for line in model_card(results_of()).splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {4, 9}
