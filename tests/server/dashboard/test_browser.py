"""The page in a real browser: Debian's Chromium."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

from common.pki.invitation import open_invitation
from common.pki.keys import new_p384_key
from common.pki.request import make_request, open_request
from server.run_folder import RunFolder
from simulations.screenshots import DONE, GOING, PAGES, SIZES, chromium, past, served

WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page in a browser that came by the link; its folder; and what the browser complained of."""
    folder, complaints = tmp_path_factory.mktemp("pages") / "coordinator", []
    with served(past(folder)) as here, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        context = browser.new_context(base_url=here.origin, bypass_csp=False)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(here.link())
        yield page, folder, complaints
        browser.close()


@pytest.mark.slow
def test_rounds_arrive_on_the_open_page_as_they_happen(shown):
    page, folder, complaints = shown
    page.goto(f"/studies/{GOING}")
    expect(page.get_by_text("13 of 40", exact=True)).to_be_visible()
    run = RunFolder(folder / "runs" / GOING)
    run.event("reply", round=14, site="hospital-of-the-lake", status="late", reason="deadline", seconds=None)
    lake = page.locator(".places li", has_text="hospital-of-the-lake")
    expect(lake).to_contain_text("late", timeout=60_000)
    expect(lake).to_contain_text("no answer before the deadline")
    missed = [["hospital-of-the-lake", "late", "deadline"]]
    run.event("round", round=14, seconds=80.0, model_round=13, accuracy=0.9, took_part=5, missed=missed, of=40)
    expect(page.locator(".timeline li").first).to_contain_text("Round 14 of 40", timeout=60_000)
    expect(page.get_by_text("14 of 40", exact=True)).to_be_visible()
    page.goto("/")
    run.event("end", outcome="failed", reason="round 15: 1 updates arrived", code="quorum-missed")
    expect(page.get_by_role("row", name=re.compile("next year"))).to_contain_text("failed", timeout=60_000)
    assert complaints == []


@pytest.mark.slow
def test_a_hospital_is_invited_and_admitted_by_what_it_reads_out(shown):
    page, _, complaints = shown
    page.goto("/sites")
    page.get_by_role("textbox", name="Hospital").fill("St. Mary")
    page.get_by_role("button", name="Invite", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as a file").click()
    assert download.value.suggested_filename == "st-mary.invite"
    invitation = open_invitation(download.value.path().read_bytes(), datetime.now(UTC))
    request = make_request(invitation, new_p384_key())
    page.goto("/sites/admit")
    page.get_by_label("The request").set_input_files(
        {"name": "x.request", "mimeType": "text/plain", "buffer": request.encode()}
    )
    page.get_by_role("button", name="Look at it").click()
    page.get_by_label("The hospital reads out").fill("0000 0000 0000 0000 0000 0000 0000 0000")
    page.get_by_role("button", name="Admit").click()
    expect(page.get_by_role("alert")).to_contain_text("They differ")
    page.get_by_label("The hospital reads out").fill(open_request(request.encode()).fingerprint)
    page.get_by_role("button", name="Admit").click()
    expect(page.get_by_role("row", name=re.compile("St. Mary"))).to_contain_text("admitted")
    assert [text for text in complaints if "409" not in text] == []
    complaints.clear()


@pytest.mark.slow
def test_a_study_is_checked_as_it_is_typed_and_a_report_is_downloaded(shown):
    page, folder, complaints = shown
    page.goto("/launch")
    expect(page.get_by_role("button", name="Sign it")).to_be_visible()
    editor = page.get_by_label("The study", exact=False).first
    text = editor.input_value()
    editor.fill(text.replace("rounds = 30", "rounds = 0"))
    expect(page.get_by_text("federation.rounds = 0")).to_be_visible(timeout=60_000)
    expect(page.get_by_role("button", name="Sign it")).to_have_count(0)
    editor.fill(text.replace("rounds = 30", "rounds = 12"))
    expect(page.get_by_text("after round 12")).to_be_visible(timeout=60_000)
    page.goto(f"/studies/{DONE}/results")
    expect(page.locator("figure svg")).not_to_have_count(0, timeout=60_000)
    with page.expect_download() as download:
        page.get_by_role("link", name="Report").click()
    assert download.value.path().read_bytes() == (folder / "runs" / DONE / "report.html").read_bytes()
    assert complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier_that_axe_finds_and_none_is_wider_than_a_phone(shown, scheme):
    page, _, _ = shown
    found = {}
    for name, path in PAGES.items():
        page.emulate_media(color_scheme=scheme)
        width, height = SIZES["phone" if scheme == "light" else "desktop"]
        page.set_viewport_size({"width": width, "height": height})
        page.goto(path)
        page.locator("[hx-get]").wait_for(state="detached", timeout=60_000)
        result = Axe().run(page, options=WCAG)
        violations = [
            (one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in result.response["violations"]
        ]
        if violations:
            found[name] = violations
        too_wide = page.locator("html").evaluate("root => root.scrollWidth > root.clientWidth")
        assert not too_wide, f"{name} is wider than its window"
    assert found == {}, json.dumps(found, indent=1)


@pytest.mark.slow
def test_the_keyboard_reaches_the_content_first_and_the_switch_turns_the_page_dark(shown):
    page, _, _ = shown
    page.emulate_media(color_scheme="light")
    page.goto("/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("button", name="Light or dark").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark", "it stays so"
    page.get_by_role("button", name="Light or dark").click()
