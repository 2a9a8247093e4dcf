"""How somebody comes in, and who does not."""

from __future__ import annotations

import re

import pytest

from common.web.sessions import IDLE_SECONDS, WHOLE_SECONDS, Session, Sessions

PASSWORD = "correct horse battery"
COOKIE = "fedct-8460"


def test_the_link_lets_in_once_and_the_next_one_is_said_at_the_terminal(serve):
    served = serve()
    link = served.app.state.door.link
    assert served.browser().get(link).status_code == 303
    assert served.browser().get(link).status_code == 403
    (said,) = served.said
    (new,) = re.findall(r"http://\S+", said)
    assert served.browser().get(new).status_code == 303


@pytest.mark.parametrize("token", ["", "wrong", "é", "x" * 200])
def test_a_wrong_link_lets_nobody_in(serve, token):
    browser = serve().browser()
    assert browser.get("/enter", params={"token": token}).status_code == 403
    assert browser.cookies.get(COOKIE) is None


def test_the_link_is_worth_nothing_where_there_are_accounts(serve):
    served = serve("viewer")
    assert served.browser().get(served.app.state.door.link).status_code == 404


def test_passwords_are_worth_nothing_where_there_is_a_link(serve):
    assert serve().browser().post("/login", data={"name": "a", "password": "b"}).status_code == 404


def test_the_cookie_is_hidden_from_scripts_and_from_other_sites(serve):
    served = serve()
    (cookie,) = [
        value
        for name, value in served.browser().get(served.app.state.door.link).headers.items()
        if name == "set-cookie"
    ]
    assert {"httponly", "samesite=strict", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}


def test_under_tls_the_cookie_is_bound_to_the_host_and_never_sent_in_the_clear(serve):
    served = serve(secure=True)
    (cookie,) = [v for n, v in served.browser().get(served.app.state.door.link).headers.items() if n == "set-cookie"]
    assert cookie.startswith("__Host-fedct-8460=")
    assert "secure" in {part.strip().lower() for part in cookie.split(";")}


def test_a_session_that_was_planted_before_the_login_is_not_the_one_after_it(serve):
    served = serve("viewer")
    attacker = served.logged_in("the-viewer")
    planted = attacker.cookies[COOKIE]
    victim = served.browser()
    victim.cookies.set(COOKIE, planted, domain="127.0.0.1")
    token = victim.get("/").text.split('name="csrf" value="')[1].split('"')[0]
    victim.post("/login", data={"name": "the-viewer", "password": PASSWORD, "csrf": token})
    assert planted not in [
        cookie.value for cookie in victim.cookies.jar if cookie.path == "/" and cookie.value != planted
    ]
    assert attacker.get("/").status_code == 303, "the planted session is over"


@pytest.mark.parametrize(
    "edit",
    [lambda c: "x" + c, lambda c: c[:-1] + ("0" if c[-1] != "0" else "1"), lambda c: c.split(".")[0], lambda _: "."],
)
def test_a_forged_cookie_is_nobodys(serve, edit):
    browser = serve().entered()
    cookie = browser.cookies[COOKIE]
    browser.cookies.clear()
    browser.cookies.set(COOKIE, edit(cookie))
    assert browser.get("/").status_code == 303


def test_logging_out_ends_the_session_itself_and_not_only_the_cookie(serve, token_of):
    served = serve()
    browser = served.entered()
    cookie = browser.cookies[COOKIE]
    browser.post("/logout", data={"csrf": token_of(browser)})
    thief = served.browser()
    thief.cookies.set(COOKIE, cookie)
    assert thief.get("/").status_code == 303


def test_whoever_is_removed_or_given_another_role_or_password_is_so_at_once(serve, token_of):
    served = serve("operator", "approver")
    operator, approver = served.logged_in("the-operator"), served.logged_in("the-approver")
    served.page.accounts.put("the-operator", "operator", "another long password")
    assert operator.get("/").status_code == 303
    served.page.accounts.remove("the-approver")
    assert approver.get("/").status_code == 303


def test_after_five_wrong_passwords_even_the_right_one_waits(serve):
    served = serve("viewer")
    browser = served.browser()
    wrong = {"name": "the-viewer", "password": "guess guess guess"}
    assert [browser.post("/login", data=wrong).status_code for _ in range(6)] == [403] * 5 + [429]
    right = browser.post("/login", data=wrong | {"password": PASSWORD})
    assert right.status_code == 429
    assert int(right.headers["retry-after"]) >= 1


def test_wrong_names_and_wrong_passwords_are_answered_alike_and_audited(serve):
    served = serve("viewer")
    answers = [
        served.browser().post("/login", data={"name": name, "password": "guess guess guess"})
        for name in ("the-viewer", "nobody")
    ]
    assert answers[0].text == answers[1].text
    assert [action.note for action in served.actions] == [
        "wrong name or password, as 'the-viewer'",
        "wrong name or password, as 'nobody'",
    ]


def test_a_session_is_over_when_idle_or_old_and_watching_does_not_prolong_it():
    now = 0.0
    sessions = Sessions(lambda: now)
    cookie = sessions.begin(Session("anna", "viewer"))
    now = IDLE_SECONDS - 1
    assert sessions.find(cookie, touch=False)
    now = IDLE_SECONDS + 1
    assert sessions.find(cookie) is None
    cookie, begun = sessions.begin(Session("anna", "viewer")), now
    while now - begun < WHOLE_SECONDS:
        assert sessions.find(cookie)
        now += IDLE_SECONDS - 1
    assert sessions.find(cookie) is None
