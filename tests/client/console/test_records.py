"""Budget, ledger, audit log and releases on the page: what they say, and that a changed past is noticed."""

from __future__ import annotations

import json
import socket

import pytest

from client.audit_log import AuditLog
from client.console.paging import ROWS, Sheet, matches
from client.ledger import Ledger
from common.errors import BudgetExceeded
from common.privacy.events import Gaussian, SubsampledGaussian

STUDY, OTHER = "a" * 64, "b" * 64
STEPS, COUNTS = SubsampledGaussian(sigma=2.0, q=0.5, steps=3), Gaussian(10.0)


def charge(site, study=STUDY, round_=1, most=20.0, events=(STEPS, COUNTS)):
    ledger = Ledger(site.ledger_file)
    row = ledger.reserve(
        cohort="default", study_digest=study, round_=round_, events=events, max_epsilon=most, max_delta=1e-3
    )
    ledger.commit(row)
    ledger.release(row, "update 400 bytes, evaluation noised")
    details = {"study": study, "round": round_, "update_bytes": 400, "private": True, "evaluation": "noised"}
    AuditLog(site.audit_file).append("release", details)


def test_the_budget_says_what_is_spent_by_whom_and_what_is_left(page, waiting):
    AuditLog(page.site.audit_file).append("study-approved", {"study": STUDY, "name": "first"})
    charge(page.site)
    charge(page.site, OTHER, events=(STEPS,))
    viewer = page.browser("viewer")
    assert "Adding up the ledger" in viewer.get("/budget").text
    shown = viewer.get("/budget/picture").text
    spent = Ledger(page.site.ledger_file).spent("default", 1e-3)
    assert f"<dd>{spent:.2f}<small>of 20</small>" in shown
    assert f"<dd>{20 - spent:.2f}" in shown
    assert ">first<" in shown.replace("</svg> ", "</svg>>").replace("first</th>", "first<")
    assert OTHER[:12] in shown
    assert "waits for approval" in shown
    assert shown.count("<svg") >= 4


def test_a_charge_that_the_budget_refused_is_shown(page):
    with pytest.raises(BudgetExceeded):
        charge(page.site, most=0.001)
    assert "the site&#39;s policy allows max_epsilon 0.001" in page.browser("viewer").get("/budget").text


def test_the_ledger_is_searched_and_exported(page):
    for round_ in range(1, 13):
        charge(page.site, round_=round_)
    charge(page.site, OTHER)
    viewer = page.browser("viewer")
    first = viewer.get("/records/ledger").text
    assert "39 rows, the chain is intact" in first
    assert "3 steps with noise 2 × clip, each patient drawn with probability 0.5" in first
    assert "Page 1 of 2" in first
    assert viewer.get("/records/ledger?page=999999").text.count("<tr>") == 1 + 39 - ROWS
    assert "3 found" in viewer.get("/records/ledger", params={"q": f"{OTHER[:9]}"}).text
    assert len(viewer.get("/records/ledger.jsonl").text.splitlines()) == 39
    assert page.log("page")[-1]["note"] == "exported the ledger"


def test_the_audit_log_is_searched_by_words_kinds_and_names(page):
    log = AuditLog(page.site.audit_file)
    log.append("study-approved", {"study": STUDY, "name": "first"})
    log.append("refused-or-failed", {"code": "x", "error": "Grüße <script>alert(1)</script>"})
    charge(page.site)
    viewer = page.browser("viewer")
    assert "2 found" in viewer.get("/records", params={"q": "FIRST"}).text
    shown = viewer.get("/records", params={"q": "grüße"}).text
    assert "1 found" in shown
    assert "&lt;script&gt;" in shown
    assert "<script>alert" not in shown
    assert "1 found" in viewer.get("/records", params={"kind": "release"}).text
    assert "No line holds all" in viewer.get("/records", params={"q": "\u0000 nothing", "kind": '"'}).text


def test_what_left_is_listed_with_bytes_and_mechanism(page):
    AuditLog(page.site.audit_file).append("study-approved", {"study": STUDY, "name": "first"})
    charge(page.site)
    details = {"study": OTHER, "round": 2, "update_bytes": 7_000_000, "private": False, "evaluation": "exact"}
    AuditLog(page.site.audit_file).append("release", details)
    shown = page.browser("viewer").get("/releases").text
    for words in ("7.0 MB", "400 Bytes", "coordinator.example:8443", "without noise", "exact", "first"):
        assert words in shown
    assert "3 steps with noise 2 × clip, each patient drawn with probability 0.5" in shown
    assert "counts with noise 10 × sensitivity" in shown


@pytest.mark.parametrize("path", ["/studies", "/releases", "/records"])
def test_an_audit_log_that_was_edited_after_the_page_read_it_is_not_shown(page, path):
    charge(page.site)
    viewer = page.browser("viewer")
    assert viewer.get(path).status_code == 200
    text = page.site.audit_file.read_bytes()
    page.site.audit_file.write_bytes(text.replace(b'"update_bytes":400', b'"update_bytes":4'))
    found = viewer.get(path)
    assert (found.status_code, "was edited, removed or moved" in found.text) == (409, True)


def test_an_audit_log_put_back_to_an_older_state_is_noticed(page):
    charge(page.site)
    older = page.site.audit_file.read_bytes()
    charge(page.site, round_=2)
    viewer = page.browser("viewer")
    assert viewer.get("/records").status_code == 200
    page.site.audit_file.write_bytes(older)
    assert "was rolled back" in viewer.get("/records").text


def test_nothing_is_written_yet(page):
    viewer = page.browser("viewer")
    for path, words in (("/releases", "Nothing has left"), ("/budget/picture", "Nothing is spent yet")):
        assert words in viewer.get(path).text
    assert "Nothing is spent yet" in viewer.get("/records/ledger").text


def test_whoever_is_not_logged_in_can_t_fill_the_audit_log(page):
    stranger = page.browser()
    for _ in range(60):
        stranger.post("/studies", data={"x": "y"})
    lines = page.log("page")
    assert len(lines) == 30
    assert {line["user"] for line in lines} == {""}


def test_no_page_connects_to_anybody(page, waiting, monkeypatch):
    charge(page.site)
    tried = []
    connect = socket.socket.connect

    def watched(self, address):
        tried.append(address)
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    viewer = page.browser("viewer")
    paths = ["/studies", f"/studies/{waiting.digest}", f"/studies/{waiting.digest}/cost", "/budget", "/budget/picture"]
    for path in [*paths, "/cohorts", "/releases", "/records", "/records/ledger", "/health", "/health/checks"]:
        assert viewer.get(path).status_code == 200
    assert [address for address in tried if address[0] != "127.0.0.1"] == []


def test_the_doctor_s_findings_come_with_remedies_and_without_the_network(page):
    shown = page.browser("viewer").get("/health/checks").text
    assert "none is approved here, so every round is refused" in shown
    assert "Review and approve one" in shown
    assert "connection" not in shown


def test_a_page_beyond_the_last_is_the_last():
    sheet = Sheet.of(list(range(ROWS + 1)), 9)
    assert (list(sheet.rows), sheet.number, sheet.pages) == ([ROWS], 2, 2)
    assert Sheet.of([], 1).pages == 1


def test_every_word_must_be_there():
    assert matches("Round TRAIN", json.dumps({"round": "Training"}))
    assert not matches("round nothing", "a round")
