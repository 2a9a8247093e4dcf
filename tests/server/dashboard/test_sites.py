"""Sites on the page: invitations, admission by fingerprint, revocation, and roles."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime

import pytest

from common.pki.invitation import open_invitation
from common.pki.keys import new_p384_key
from common.pki.request import make_request, open_request
from server.registry import Registry


def invited(browser, title="North Clinic"):
    shown = browser.post("/sites/invite", {"title": title})
    assert shown.status_code == 200
    document = html.unescape(re.search(r'data-copy="([^"]+)"', shown.text)[1])
    return open_invitation(document.encode(), datetime.now(UTC)), shown.text


def standing(coordinator, site):
    (found,) = [s.standing for s in Registry(coordinator.registry_file).standings(datetime.now(UTC)) if s.site == site]
    return found


def test_every_site_is_listed_with_standing_readiness_and_release(page, past):
    text = page(past).browser().text("/sites")
    assert "St. Anna st-anna admitted" in text
    assert "Harbour View harbour-view invited until" in text
    assert "ready" in text
    assert "0.1.0" in text
    assert "The coordinator is not serving at present" in text
    assert "Certificate of the server" in text


def test_an_invitation_made_on_the_page_is_a_good_one_and_its_token_is_not_on_the_audit(page, fresh):
    served = page(fresh)
    invitation, text = invited(served.browser())
    assert invitation.title == "North Clinic"
    assert invitation.fingerprint in text
    assert standing(fresh, "north-clinic") == "invited"
    assert served.actions[-1].note == "invited north-clinic"
    assert invitation.token not in str(served.actions)


def test_a_request_is_admitted_when_what_the_hospital_reads_out_is_its_fingerprint(page, fresh):
    served = page(fresh)
    browser = served.browser()
    request = make_request(invited(browser)[0], new_p384_key())
    shown = browser.post("/sites/admit/look", files={"file": ("x.request", request)})
    print_ = open_request(request.encode()).fingerprint
    assert print_ in shown.text
    assert standing(fresh, "north-clinic") == "invited", "looking admits nobody"
    heard = {"document": request, "heard": print_.upper().replace(" ", "-")}
    assert browser.post("/sites/admit", heard).status_code == 303
    assert standing(fresh, "north-clinic") == "admitted"
    assert served.actions[-1].note == f"admitted north-clinic, {print_}"
    assert "north-clinic is admitted. The coordinator is not serving" in browser.text("/sites")


@pytest.mark.parametrize("heard", ["0000 0000 0000 0000 0000 0000 0000 0000", "x", "{first}"])
def test_another_fingerprint_admits_nobody(page, fresh, heard):
    browser = page(fresh).browser()
    request = make_request(invited(browser)[0], new_p384_key())
    said = heard.format(first=open_request(request.encode()).fingerprint[:19])
    shown = browser.post("/sites/admit", {"document": request, "heard": said})
    assert shown.status_code == 409
    assert "They differ" in shown.text
    assert standing(fresh, "north-clinic") == "invited"


@pytest.mark.parametrize("document", ["", "{}", "nonsense", '{"a": "<script>"}'])
def test_what_is_no_request_is_refused_in_words(page, fresh, document):
    browser = page(fresh).browser()
    for path, data, files in (
        ("/sites/admit", {"document": document or "x", "heard": "x"}, None),
        ("/sites/admit/look", {}, {"file": ("x", document)}),
    ):
        shown = browser.post(path, data, files=files)
        assert shown.status_code == 409
        assert "<script>" not in shown.text


def test_revoking_asks_first_and_ends_the_site(page, fresh):
    browser = page(fresh).browser()
    assert "for good" in browser.text("/sites/st-anna/revoke")
    assert standing(fresh, "st-anna") == "admitted"
    assert browser.post("/sites/st-anna/revoke").status_code == 303
    assert standing(fresh, "st-anna") == "revoked"
    assert browser.post("/sites/nobody/revoke").status_code == 409


def test_each_role_may_do_its_part_and_no_more(page, fresh):
    served = page(fresh, roles=("viewer", "operator", "approver"))
    found = {}
    for role in ("viewer", "operator", "approver"):
        browser = served.browser(role)
        found[role] = [
            browser.get("/sites").status_code,
            browser.post("/sites/invite", {"title": f"Clinic {role}"}).status_code,
            browser.get("/launch").status_code,
            browser.get("/sites/admit").status_code,
            browser.post("/sites/harbour-view/revoke").status_code,
        ]
    assert found == {
        "viewer": [200, 403, 403, 403, 403],
        "operator": [200, 200, 200, 403, 403],
        "approver": [200, 200, 200, 200, 303],
    }
