"""The site's page in a real browser: Debian's Chromium."""

from __future__ import annotations

import json
import threading

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

import client.ingest
from client.approval import approved
from simulations.screenshots import SIZES, chromium, served, site_page, site_pages, site_past

WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
PATIENTS = 6
LONG = 120_000


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The page in a browser that came by the link; the site; and what the browser complained of."""
    site, complaints = site_past(tmp_path_factory.mktemp("site"), PATIENTS), []
    with served(site_page(site)) as here, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_context(base_url=here.origin).new_page()
        page.set_default_timeout(LONG)
        page.set_default_navigation_timeout(LONG)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(here.link())
        yield page, site, complaints
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_barrier_that_axe_finds_and_none_is_wider_than_a_phone(shown, scheme):
    page, site, complaints = shown
    found = {}
    for name, path in site_pages(site).items():
        page.emulate_media(color_scheme=scheme)
        width, height = SIZES["phone" if scheme == "light" else "desktop"]
        page.set_viewport_size({"width": width, "height": height})
        page.goto(path)
        page.locator("[hx-get]").wait_for(state="detached", timeout=LONG)
        violations = Axe().run(page, options=WCAG).response["violations"]
        if violations:
            found[name] = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in violations]
        too_wide = page.locator("html").evaluate("root => root.scrollWidth > root.clientWidth")
        assert not too_wide, f"{name} is wider than its window"
    assert found == {}, json.dumps(found, indent=1)
    assert complaints == []


@pytest.mark.slow
def test_a_study_beyond_the_budget_offers_no_yes(shown):
    page, site, _ = shown
    page.goto("/studies")
    page.get_by_role("link", name="The whole spine", exact=True).click()
    expect(page.get_by_text("The budget refuses it")).to_be_visible(timeout=LONG)
    expect(page.get_by_role("link", name="Refuse…")).to_be_visible()
    expect(page.get_by_role("link", name="Approve…")).to_have_count(0)
    assert "whole-spine" not in {study.name for study in approved(site)}


@pytest.mark.slow
def test_a_study_is_approved_with_a_second_confirmation(shown):
    page, site, complaints = shown
    page.goto("/studies")
    page.get_by_role("link", name="Bone density from routine CT", exact=True).click()
    expect(page.get_by_text("The budget takes it")).to_be_visible(timeout=LONG)
    page.get_by_role("link", name="Approve…").click()
    expect(page.get_by_role("heading")).to_have_text("Let “osteoporosis” run here?")
    assert "osteoporosis" not in {study.name for study in approved(site)}
    page.get_by_role("button", name="Yes, let it run here").click()
    expect(page.get_by_role("status")).to_contain_text("is approved")
    assert "osteoporosis" in {study.name for study in approved(site)}
    page.goto("/budget")
    expect(page.get_by_role("row", name="osteoporosis approved, to come")).to_be_visible(timeout=LONG)
    assert complaints == []


@pytest.mark.slow
def test_a_scan_is_started_and_its_progress_arrives(shown, monkeypatch):
    page, _, complaints = shown
    real, half, go_on = client.ingest.ingest, threading.Event(), threading.Event()

    def gated(site, study, progress):
        def step(done, total):
            progress(done, total)
            if done >= total // 2:
                half.set()
                assert go_on.wait(120)

        return real(site, study, step, reuse=False)

    monkeypatch.setattr("client.ingest.ingest", gated)
    page.goto("/cohorts")
    page.get_by_role("button", name="Start the scan").click()
    try:
        assert half.wait(120)
        expect(page.get_by_text("under way")).to_be_visible(timeout=LONG)
        expect(page.get_by_role("progressbar")).to_be_visible()
        expect(page.get_by_text("each file counts for its header and its pixels")).to_be_visible(timeout=LONG)
    finally:
        go_on.set()
    expect(page.get_by_role("link", name="See the report")).to_be_visible(timeout=LONG)
    expect(page.get_by_text(f"{PATIENTS} patients, {PATIENTS} series")).to_be_visible()
    assert complaints == []
