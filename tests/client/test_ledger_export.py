"""An export is checked by its documented rule alone, and against the ledger that it came from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.ledger import Ledger
from client.ledger_export import check_export, export_text, read_export
from common.errors import LedgerError
from common.privacy.events import Gaussian, SubsampledGaussian


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    book = Ledger(tmp_path / "ledger.sqlite")
    for round_ in (1, 2, 3):
        reserve(book, round_)
    book.commit(1)
    book.release(1, "update, évaluation \u2028")
    return book


def reserve(book: Ledger, round_: int) -> int:
    return book.reserve(
        cohort="default",
        study_digest="a" * 64,
        round_=round_,
        events=[SubsampledGaussian(10.0, 1 / 3, 5), Gaussian(1e-1 + 0.2, 1)],
        max_epsilon=1000.0,
        max_delta=1e-5,
    )


@pytest.fixture
def exported(ledger: Ledger, tmp_path: Path) -> Path:
    path = tmp_path / "export.jsonl"
    path.write_text(export_text(ledger.entries()), encoding="ascii")
    return path


def follows_the_rule(text: str) -> bool:
    """The rule as documented, written anew, with nothing of fedct."""
    prev = "0" * 64
    for number, line in enumerate(text.splitlines(), start=1):
        row = json.loads(line)
        claimed = row.pop("hash")
        spelled = json.dumps(row, sort_keys=True, separators=(",", ":"))
        if hashlib.sha256(spelled.encode("ascii")).hexdigest() != claimed or row["prev"] != prev or row["id"] != number:
            return False
        prev = claimed
    return True


def test_every_row_is_a_line_that_anybody_can_verify(ledger: Ledger, exported: Path):
    text = exported.read_text(encoding="ascii")
    assert len(text.splitlines()) == 5
    assert follows_the_rule(text)
    assert not follows_the_rule(text.replace('"round":2', '"round":3'))
    assert read_export(exported) == tuple(entry.hash for entry in ledger.entries())


def test_an_export_holds_every_column_and_the_events_come_back(ledger: Ledger, exported: Path):
    rows = [json.loads(line) for line in exported.read_text(encoding="ascii").splitlines()]
    for row, entry in zip(rows, ledger.entries(), strict=True):
        assert set(row) == set(vars(entry))
        assert (row["id"], row["kind"], row["note"]) == (entry.id, entry.kind, entry.note)
        assert len(json.loads(row["events"])) == len(entry.events)


def test_a_ledger_that_grew_still_begins_with_its_old_export(ledger: Ledger, exported: Path):
    reserve(ledger, 4)
    assert check_export(exported, ledger.entries()) == 5


def test_an_empty_ledger_has_an_empty_export(tmp_path: Path):
    book = Ledger(tmp_path / "new.sqlite")
    path = tmp_path / "none.jsonl"
    path.write_text(export_text(book.entries()))
    assert read_export(path) == ()
    assert check_export(path, book.entries()) == 0


def test_an_export_finds_a_ledger_whose_head_was_rolled_back_with_it(ledger: Ledger, tmp_path: Path):
    """What the head can't tell: an old copy of file and head together."""
    old = (ledger.path.read_bytes(), ledger.head_path.read_bytes())
    reserve(ledger, 4)
    path = tmp_path / "newer.jsonl"
    path.write_text(export_text(ledger.entries()))
    ledger.path.write_bytes(old[0])
    ledger.head_path.write_bytes(old[1])
    assert ledger.verify() == 5
    with pytest.raises(LedgerError, match=r"rolled back: it has 5 rows, export .* has 6"):
        check_export(path, ledger.entries())


def test_an_export_of_another_ledger_is_told(exported: Path, tmp_path: Path):
    other = Ledger(tmp_path / "other.sqlite")
    reserve(other, 7)
    with pytest.raises(LedgerError, match="row 1 of the ledger is not line 1"):
        check_export(exported, other.entries())


DAMAGE = {
    "a value edited": (lambda lines: [lines[0], lines[1].replace('"round":2', '"round":9'), *lines[2:]], 2),
    "a line left out": (lambda lines: lines[:1] + lines[2:], 2),
    "the first left out": (lambda lines: lines[1:], 1),
    "two lines changed over": (lambda lines: [lines[1], lines[0], *lines[2:]], 1),
    "a line twice": (lambda lines: [lines[0], *lines], 2),
    "no JSON": (lambda lines: [*lines[:3], "{", lines[4]], 4),
    "no object": (lambda lines: [*lines[:3], "[1]", lines[4]], 4),
    "a blank line": (lambda lines: [*lines[:2], "", *lines[2:]], 3),
    "other white space": (lambda lines: [json.dumps(json.loads(lines[0])), *lines[1:]], 1),
    "nested without end": (lambda lines: ["[" * 100_000, *lines[1:]], 1),
    "another line ending": (lambda lines: [lines[0] + "\r", *lines[1:]], 1),
    "no hash": (lambda lines: ['{"id":1}', *lines[1:]], 1),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_line_that_breaks_the_rule_is_named(exported: Path, damage):
    spoil, line = DAMAGE[damage]
    lines = exported.read_text(encoding="ascii").splitlines()
    exported.write_bytes("".join(text + "\n" for text in spoil(lines)).encode())
    with pytest.raises(LedgerError, match=f"line {line} of export .* was edited, removed or moved"):
        read_export(exported)


def test_an_export_that_is_cut_off_is_told(exported: Path):
    exported.write_bytes(exported.read_bytes()[:-1])
    with pytest.raises(LedgerError, match=r"line 5 .* cut off"):
        read_export(exported)


@pytest.mark.parametrize("content", [b"\xff\xfe", "é".encode()])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(LedgerError, match="not an export"):
        read_export(tmp_path / "x")


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(LedgerError, match="does not exist"):
        read_export(tmp_path / "x")


@given(st.text(min_size=1, max_size=60))
def test_text_that_is_no_export_is_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("x") / "export"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LedgerError, match=str(path)):
        read_export(path)
