"""Who may decide on a study at the site's page, and what a person is told before."""

from __future__ import annotations

import pytest

from client.audit_log import AuditLog
from client.ledger import Ledger
from client.proposals import MOST, proposals, propose
from common.pki import keys
from common.pki.signature import sign_study
from common.privacy.events import SubsampledGaussian


def test_a_study_is_added_looked_at_approved_and_taken_back(page, post, small_study):
    study, operator, approver = small_study(title="Bones"), page.browser("operator"), page.browser("approver")
    assert post(operator, "/studies", study=study).headers["location"] == f"/studies/{study.digest}"
    assert [one.study for one in proposals(page.site)] == [study]
    shown = operator.get(f"/studies/{study.digest}").text
    for words in ("Bones", "What leaves the hospital", "with noise: epsilon 8 at delta 0.001", study.digest):
        assert words in shown
    cost = approver.get(f"/studies/{study.digest}/cost").text
    assert "The budget takes it" in cost
    assert f"/studies/{study.digest}/approve" in cost
    asked = approver.get(f"/studies/{study.digest}/approve").text
    assert "Let “small” run here?" in asked
    assert study.digest in asked
    assert not page.site.is_approved(study)
    assert post(approver, f"/studies/{study.digest}/approve").status_code == 303
    assert page.site.is_approved(study)
    assert proposals(page.site) == ()
    assert "“small” is approved" in approver.get(f"/studies/{study.digest}").text
    assert page.log("study-approved")[0] | {"epsilon": 0} == {
        "by": "the-approver",
        "epsilon": 0,
        "name": "small",
        "study": study.digest,
    }
    assert post(approver, f"/studies/{study.digest}/refuse").status_code == 303
    assert not page.site.is_approved(study)
    assert page.log("study-refused")[0]["was_approved"] is True
    assert approver.get(f"/studies/{study.digest}").status_code == 404


@pytest.mark.parametrize("role", ["viewer", "operator"])
@pytest.mark.parametrize("decision", ["approve", "refuse"])
def test_a_viewer_or_an_operator_decides_nothing(page, post, waiting, role, decision):
    browser = page.browser(role)
    path = f"/studies/{waiting.digest}/{decision}"
    assert browser.get(path).status_code == 403
    assert post(browser, path).status_code == 403
    assert not page.site.is_approved(waiting)
    assert len(proposals(page.site)) == 1
    assert path not in browser.get(f"/studies/{waiting.digest}/cost").text
    assert page.log("page")[-1] | {"from": ""} == {
        "from": "",
        "note": "",
        "role": role,
        "status": 403,
        "user": f"the-{role}",
        "what": f"POST {path}",
    }


def test_a_viewer_adds_no_study(page, post, small_study):
    assert post(page.browser("viewer"), "/studies", study=small_study()).status_code == 403
    assert proposals(page.site) == ()


@pytest.mark.parametrize("token", ["", "guessed"])
def test_a_form_of_another_page_decides_nothing(page, waiting, token):
    approver = page.browser("approver")
    path = f"/studies/{waiting.digest}/approve"
    assert approver.post(path, data={"csrf": token}).status_code == 403
    evil = {"origin": "http://evil.example"}
    assert approver.post(path, data={"csrf": token}, headers=evil).status_code == 403
    assert not page.site.is_approved(waiting)


def test_nobody_who_is_not_logged_in_sees_anything(page, waiting):
    stranger = page.browser()
    for path in ("/studies", f"/studies/{waiting.digest}", "/budget", "/cohorts", "/releases", "/records", "/health"):
        assert stranger.get(path).headers["location"] == "/login"


def test_words_of_the_coordinator_are_shown_as_words(page, key, small_study):
    attack = '<script>alert("x")</script>'
    study = small_study(title=attack, description=f"{attack}\u202e\x07", task={"classes": [attack, "b"]})
    propose(page.site, study, sign_study(study, key))
    approver = page.browser("approver")
    for path in ("/studies", f"/studies/{study.digest}", f"/studies/{study.digest}/approve", "/budget/picture"):
        shown = approver.get(path).text
        assert "<script>alert" not in shown
        assert "\u202e" not in shown
        assert "\x07" not in shown
    assert "&lt;script&gt;" in approver.get("/studies").text


def test_a_study_of_somebody_else_is_not_taken_in(page, post, small_study, study_file, tmp_path):
    operator, study = page.browser("operator"), small_study()
    token = operator.get("/studies").text.split('name="csrf" value="')[1].split('"')[0]
    study_file(tmp_path / "s.toml", study)
    content = (tmp_path / "s.toml").read_bytes()
    for line in (b"", b"\xff" * 2000, sign_study(study, keys.new_study_key()).encode()):
        files = {"study": ("s.toml", content), "signature": ("s.toml.sig", line)}
        assert operator.post("/studies", data={"csrf": token}, files=files).status_code == 409
    assert proposals(page.site) == ()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a = " + b"[" * 50_000, b"format = 1", b"[[" * 10, b"\0"])
def test_what_is_no_study_is_said_and_not_kept(page, content):
    operator = page.browser("operator")
    token = operator.get("/studies").text.split('name="csrf" value="')[1].split('"')[0]
    found = operator.post("/studies", data={"csrf": token}, files={"study": ("../../s.toml", content)})
    assert (found.status_code, "the study file" in found.text) == (409, True)
    assert not (page.site.folder / "proposed").exists()


@pytest.mark.parametrize("path", ["../../etc/passwd", "..%2f..%2fsite.toml", "0" * 63, "A" * 64, f"{'0' * 64}.json"])
def test_an_address_can_t_name_another_file(page, path):
    assert page.browser("approver").get(f"/studies/{path}").status_code in (404, 422)


def test_a_study_beyond_the_budget_is_refused_and_says_so(page, post, waiting):
    events = [SubsampledGaussian(sigma=0.2, q=1.0, steps=1)]
    Ledger(page.site.ledger_file).reserve(
        cohort="default", study_digest="1" * 64, round_=1, events=events, max_epsilon=100.0, max_delta=1e-3
    )
    approver = page.browser("approver")
    cost = approver.get(f"/studies/{waiting.digest}/cost").text
    assert "The budget refuses it" in cost
    assert f"/studies/{waiting.digest}/approve" not in cost
    found = post(approver, f"/studies/{waiting.digest}/approve")
    assert (found.status_code, "policy.max_epsilon is 20" in found.text) == (409, True)
    assert not page.site.is_approved(waiting)
    assert len(proposals(page.site)) == 1


def test_a_study_beyond_the_policy_is_refused_and_says_so(make_page, post, small_study, key):
    page, study = make_page(max_steps=1), small_study()
    propose(page.site, study, sign_study(study, key))
    approver = page.browser("approver")
    cost = approver.get(f"/studies/{study.digest}/cost").text
    assert "policy.max_steps is 1" in cost
    assert post(approver, f"/studies/{study.digest}/approve").status_code == 409
    assert not page.site.is_approved(study)


def test_a_limit_that_was_lowered_holds_for_the_next_request(page, waiting):
    approver = page.browser("approver")
    assert "The budget takes it" in approver.get(f"/studies/{waiting.digest}/cost").text
    path = page.site.folder / "site.toml"
    path.write_text(path.read_text().replace("max_epsilon = 20.0", "max_epsilon = 1.0"))
    assert "max_epsilon is 1" in approver.get(f"/studies/{waiting.digest}/cost").text


def test_no_more_studies_wait_than_a_person_can_look_at(page, key, small_study):
    study = small_study()
    folder = page.site.folder / "proposed"
    folder.mkdir()
    for number in range(MOST):
        (folder / f"{number:064x}.json").write_text("{}")
    with pytest.raises(Exception, match="wait here already"):
        propose(page.site, study, sign_study(study, key))
    assert proposals(page.site) == ()


def test_whoever_holds_the_link_is_an_approver(make_page):
    page = make_page(link=True)
    browser = page.browser()
    assert browser.get(page.app.state.door.link).status_code == 303
    assert "Add a study" in browser.get("/studies").text


def test_why_this_site_last_took_no_part_is_said_at_the_study_until_it_takes_part_again(page, post, waiting):
    approver, log = page.browser("approver"), AuditLog(page.site.audit_file)

    def said(path: str) -> str:
        return " ".join(approver.get(path).text.split())

    about = {"study": waiting.digest, "round": 1}
    log.append("not-ready", {"code": "policy-1-not-approved", "error": "NotApproved: it is not approved\x1b", **about})
    assert "this site said no: it is not approved?." in said("/studies")
    post(approver, f"/studies/{waiting.digest}/approve")
    assert "this site said no" not in said("/studies")
    log.append("not-ready", {"code": "budget-exceeded", "error": "BudgetExceeded: epsilon <b>9</b> of 4", **about})
    log.append("not-ready", {"code": "internal-error", "error": "KeyError: 'study'"})  # of nobody knows which
    for path in ("/studies", f"/studies/{waiting.digest}"):
        assert "this site said no: epsilon &lt;b&gt;9&lt;/b&gt; of 4." in said(path)
    log.append("round", {**about, "training": True})
    for path in ("/studies", f"/studies/{waiting.digest}"):
        assert "this site said no" not in said(path)
