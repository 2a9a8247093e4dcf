"""Who gets past the gate, attacks included."""

from __future__ import annotations

import pytest

from common.web.gate import MOST_BYTES


def test_nobody_sees_anything_but_the_login_before_logging_in(serve):
    browser = serve().browser()
    for path in ("/", "/do", "/fetch", "/nowhere"):
        shown = browser.get(path)
        assert (shown.status_code, shown.headers["location"]) == (303, "/login")
    assert browser.get("/", headers={"accept": "*/*"}).status_code == 401
    assert browser.get("/", headers={"hx-request": "true"}).headers["hx-redirect"] == "/login"
    assert browser.get("/login").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8460", "127.0.0.1.evil.example", "", "127.0.0.2"])
def test_a_name_that_is_not_the_pages_own_is_refused_even_with_a_good_cookie(serve, host):
    browser = serve().entered()
    assert browser.get("/").status_code == 200
    assert browser.get("/", headers={"host": host}).status_code == 400


def test_the_page_can_be_reached_through_a_tunnel_at_another_port(serve):
    assert serve().entered().get("/", headers={"host": "localhost:9000"}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8460", None]
)
def test_a_form_of_another_site_or_port_is_refused_even_with_cookie_and_token(serve, token_of, origin):
    served = serve()
    browser = served.entered()
    token = token_of(browser)
    browser.headers.pop("origin")
    headers = {"origin": origin} if origin else {}
    assert browser.post("/do", data={"csrf": token, "what": "x"}, headers=headers).status_code == 403
    assert not any(action.note.startswith("did") for action in served.actions)


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_a_form_without_the_sessions_token_is_refused(serve, token):
    served = serve()
    browser = served.entered()
    assert browser.post("/do", data={"csrf": token, "what": "x"}).status_code == 403
    assert browser.post("/do", data={"what": "x"}).status_code == 403
    assert [action.status for action in served.actions[1:]] == [403, 403]


def test_another_sessions_token_is_refused(serve, token_of):
    served = serve()
    mine, other = served.entered(), served.entered()
    assert mine.post("/do", data={"csrf": token_of(other)}).status_code == 403


def test_the_token_is_taken_from_a_field_or_from_a_header(serve, token_of):
    served = serve()
    browser = served.entered()
    token = token_of(browser)
    assert browser.post("/do", data={"csrf": token, "what": "x"}).status_code == 303
    assert browser.post("/do", data={"what": "y"}, headers={"x-csrf-token": token}).status_code == 303
    assert "Did y" in browser.get("/").text
    assert "Did y" not in browser.get("/").text


def test_a_viewer_may_look_and_not_act_and_an_approver_may_do_what_an_operator_may(serve, token_of):
    served = serve("viewer", "operator", "approver")
    status = {}
    for role in ("viewer", "operator", "approver"):
        browser = served.logged_in(f"the-{role}")
        assert browser.get("/").status_code == 200
        status[role] = browser.post("/do", data={"csrf": token_of(browser)}).status_code
    assert status == {"viewer": 403, "operator": 303, "approver": 303}


def test_a_route_that_changes_something_and_names_no_role_is_refused_to_all(serve, token_of):
    browser = serve().entered()
    assert browser.post("/unmarked", data={"csrf": token_of(browser)}).status_code == 403


def test_every_answer_forbids_scripts_of_others_and_framing(serve):
    served = serve()
    browser = served.entered()
    answers = [browser.get(path) for path in ("/", "/nowhere", "/breaks", "/refuses", "/static/style.css", "/login")]
    answers += [browser.get("/", headers={"host": "evil"}), browser.post("/do"), served.browser().get("/")]
    assert [a.status_code for a in answers] == [200, 404, 500, 409, 200, 303, 400, 403, 303]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"


def test_a_body_that_is_too_large_or_of_unknown_length_is_refused_unread(serve, token_of):
    browser = serve().entered()
    assert browser.post("/do", content=b"x" * (MOST_BYTES + 1)).status_code == 413
    assert browser.post("/do", content=iter([b"x"])).status_code == 413


def test_each_action_is_audited_with_who_and_what_and_looking_is_not(serve, token_of):
    served = serve("operator")
    browser = served.logged_in("the-operator")
    browser.get("/")
    browser.post("/do", data={"csrf": token_of(browser), "what": "x"})
    browser.get("/fetch")
    browser.post("/do", data={"csrf": "wrong"})
    told = [(a.user, a.what, a.status, a.note) for a in served.actions]
    assert told == [
        ("the-operator", "POST /login", 303, "logged in"),
        ("the-operator", "POST /do", 303, "did x"),
        ("the-operator", "GET /fetch", 200, "fetched the model"),
        ("the-operator", "POST /do", 403, ""),
    ]


def test_what_nobody_expected_is_logged_and_not_shown(serve, caplog):
    shown = serve().entered().get("/breaks")
    assert shown.status_code == 500
    assert "secret detail" not in shown.text
    assert "secret detail" in caplog.text


def test_an_error_of_ours_is_shown_with_its_remedy_and_its_text_is_no_markup(serve):
    browser = serve().entered()
    page, part = browser.get("/refuses"), browser.get("/refuses", headers={"hx-request": "true"})
    for shown in (page, part):
        assert "the &lt;b&gt;run&lt;/b&gt; can&#39;t go on" in shown.text
        assert "Start it anew" in shown.text
    assert "<html" in page.text
    assert "<html" not in part.text


@pytest.mark.parametrize("path", ["/static/../page.py", "/static/%2e%2e/page.py", "/static/..%2fpage.py"])
def test_static_files_are_those_of_their_folder_alone(serve, path):
    assert serve().entered().get(path).status_code == 404
