"""The audit of a page on disk."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from common.web.gate import Action
from common.web.journal import Journal


def test_each_action_is_a_line_for_the_owner_alone_and_no_text_makes_a_second_line(tmp_path):
    journal = Journal(tmp_path / "actions.jsonl")
    for note in ("one", 'two\n{"user": "forged"}'):
        journal(Action(datetime(2026, 1, 2, tzinfo=UTC), "anna", "operator", "127.0.0.1", "POST /do", 303, note))
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [(line["user"], line["note"]) for line in lines] == [("anna", "one"), ("anna", 'two\n{"user": "forged"}')]
    assert lines[0]["time"] == "2026-01-02T00:00:00.000+00:00"
    assert journal.path.stat().st_mode & 0o777 == 0o600
