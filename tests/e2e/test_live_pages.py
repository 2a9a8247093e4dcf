"""A study from invitation to report in a browser, as somebody takes it who has never seen a terminal.

Coordinator, both kinds of page and three sites are real processes over TLS on loopback. What this story does by command
is what belongs to a machine rather than to a person: joining and serving.
"""

from __future__ import annotations

import re

import onnx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright
from safetensors.numpy import load_file

from client.approval import approved
from client.ingest.build import ingest
from client.proposals import proposals
from client.site import load_site
from common.pki.documents import MOST_BYTES
from common.pki.request import open_request
from server.run_folder import RunFolder
from simulations.screenshots import chromium

pytestmark = pytest.mark.slow

WCAG = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}}
PATIENTS = 16
PASSWORD = "correct horse battery"
LONG = 300_000  # milliseconds
FIRST, SECOND = "Dark or bright", "Dark or bright, once more"


def barriers(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds against WCAG AA, with where."""
    violations = Axe().run(page, options=WCAG).response["violations"]
    return [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in violations]


def go(tab: Page, name: str) -> None:
    """To a place of the menu."""
    tab.get_by_role("navigation", name="Places").get_by_role("link", name=name, exact=True).click()


class Browser:
    """One person's browser, with a tab for each page that is served."""

    def __init__(self, context, consortium) -> None:
        self._context, self._consortium = context, consortium
        self.complaints: list[str] = []

    def open(self, name: str, module: str, *arguments: object) -> Page:
        """Serve a page by its command, and open what it prints."""
        self._consortium.start(name, module, *arguments, "--port", 0)
        printed = self._consortium.folder / f"{name}.out"
        self._consortium.until(lambda: "http://127.0.0.1" in printed.read_text())
        tab = self._context.new_page()
        tab.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        tab.goto(re.search(r"http://127\.0\.0\.1:\S+", printed.read_text())[0])
        return tab


@pytest.fixture
def browser(consortium):
    with sync_playwright() as play:
        chrome = play.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        context = chrome.new_context()
        context.set_default_timeout(LONG)
        context.set_default_navigation_timeout(LONG)
        expect.set_options(timeout=LONG)
        yield Browser(context, consortium)
        expect.set_options(timeout=5_000)
        chrome.close()


@pytest.fixture
def studies(small_study, to_toml, tmp_path):
    """Two studies, and the file of each; one hospital's budget takes one of them and not both."""
    privacy = {"epsilon": 4.0}
    first = small_study(
        name="first",
        title=FIRST,
        federation={"rounds": 3, "minimum_sites": 2, "deadline_minutes": 1.5},
        training={"local_steps": 40},
        model={"trainable": "head"},
        privacy=privacy,
    )
    second = small_study(
        name="second",
        title=SECOND,
        federation={"rounds": 200, "minimum_sites": 1, "deadline_minutes": 20.0},
        model={"trainable": "head"},
        privacy=privacy,
    )
    files = {}
    for study in (first, second):
        files[study.name] = tmp_path / f"{study.name}.toml"
        files[study.name].write_text(to_toml(study))
    return first, second, files


def log_in(tab: Page) -> None:
    assert barriers(tab) == []
    tab.get_by_label("Name").fill("anna")
    tab.get_by_label("Password").fill(PASSWORD)
    tab.get_by_role("button", name="Log in").click()
    expect(tab.get_by_text("anna, approver")).to_be_visible()


def invite_and_admit(tab: Page, consortium, folder) -> None:
    """A hospital is invited on the page, joins by command, and is admitted by what it reads out."""
    go(tab, "Sites")
    tab.get_by_role("textbox", name="Hospital").fill("Site 1")
    tab.get_by_role("button", name="Invite", exact=True).click()
    expect(tab.get_by_role("heading", name="Invitation of Site 1")).to_be_visible()
    assert barriers(tab) == []
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Save as a file").click()
    invitation = consortium.folder / download.value.suggested_filename
    download.value.save_as(invitation)
    tab.get_by_role("link", name="Back to the sites").click()
    row = tab.get_by_role("row", name=re.compile("Site 1"))
    expect(row).to_contain_text("invited")
    said = consortium.site_command(folder, "join", invitation, "--yes")
    tab.get_by_role("link", name="Admit a request").click()
    tab.get_by_label("The request").set_input_files(consortium.folder / "site-1.request")
    tab.get_by_role("button", name="Look at it").click()
    assert barriers(tab) == []
    read_out = re.search(r"fingerprint of your node: ([0-9a-f ]+)", said)[1]
    tab.get_by_label("The hospital reads out").fill(read_out)
    tab.get_by_role("button", name="Admit").click()
    expect(row).to_contain_text("admitted")
    request = (consortium.folder / "site-1.request").read_bytes()[:MOST_BYTES]
    expect(row).to_contain_text(open_request(request).fingerprint)


def sign(tab: Page, file, folder) -> tuple:
    """A study is taken from a file, seen with its cost, and signed; the two files for the hospitals."""
    go(tab, "Launch")
    tab.get_by_label("From a file").set_input_files(file)
    tab.get_by_role("button", name="Take it in").click()
    editor = tab.get_by_role("textbox", name="The study")
    expect(editor).to_have_value(re.compile("Dark or bright"))
    text = editor.input_value()
    editor.fill(text.replace("epsilon = 4.0", "epsilon = 4000.0"))
    expect(tab.get_by_text("privacy.epsilon = 4000")).to_be_visible()
    expect(tab.get_by_role("button", name="Sign it")).to_have_count(0)
    editor.fill(text)
    expect(tab.get_by_text("This study can be signed")).to_be_visible()
    assert barriers(tab) == []
    tab.get_by_role("button", name="Sign it").click()
    expect(tab.get_by_text("The study is signed. Nothing has started.")).to_be_visible()
    assert barriers(tab) == []
    found = []
    for name in ("Study", "Signature"):
        with tab.expect_download() as download:
            tab.get_by_role("link", name=name, exact=True).click()
        found.append(folder / download.value.suggested_filename)
        download.value.save_as(found[-1])
    return tuple(found)


def add(tab: Page, study, signature) -> None:
    """A hospital's person adds what the coordinator sent."""
    go(tab, "Studies")
    tab.get_by_label("Study", exact=False).first.set_input_files(study)
    tab.get_by_label("Signature").set_input_files(signature)
    tab.get_by_role("button", name="Add it").click()
    expect(tab.get_by_text("waits for a decision")).to_be_visible()


def approve(tab: Page, name: str) -> None:
    """Yes, with the second confirmation."""
    expect(tab.get_by_text("The budget takes it")).to_be_visible()
    tab.get_by_role("link", name="Approve…").click()
    expect(tab.get_by_role("heading")).to_have_text(f"Let “{name}” run here?")
    tab.get_by_role("button", name="Yes, let it run here").click()
    expect(tab.get_by_role("status")).to_contain_text("is approved")


def scan_and_approve(tab: Page, site, study) -> None:
    """A hospital's person reads what a study would do, has its cohort made, and approves it."""
    expect(tab.get_by_text("not ingested for it yet")).to_be_visible()
    tab.get_by_role("button", name="Scan for it").click()
    expect(tab.get_by_text(f"{PATIENTS} patients, {PATIENTS} series")).to_be_visible()
    expect(tab.get_by_role("link", name=re.compile("Open.*first"))).to_be_visible()
    go(tab, "Studies")
    tab.get_by_role("link", name="Look and decide").click()
    assert [one.study.digest for one in proposals(site)] == [study.digest]
    approve(tab, study.name)
    assert [one.digest for one in approved(site)] == [study.digest]
    assert proposals(site) == ()


def start(tab: Page, title: str) -> str:
    """A signed study is started; the name of its run."""
    go(tab, "Launch")
    tab.get_by_role("link", name=title, exact=True).click()
    tab.get_by_role("button", name="Start the study").click()
    expect(tab.get_by_role("heading", name=title)).to_be_visible()
    tab.evaluate("window.neverLeft = true")
    return tab.url.rsplit("/", 1)[1]


def place(tab: Page, site: str):
    """Where the page says what a site does in this round."""
    return tab.locator(".places li", has_text=site)


def in_round(tab: Page, number: int):
    """The round's entry in the timeline."""
    return tab.locator(".timeline li", has_text=f"Round {number} of")


def download(tab: Page, name: str, folder):
    with tab.expect_download() as found:
        tab.get_by_role("link", name=name, exact=True).click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def take_results(tab: Page, folder, run: RunFolder) -> None:
    """Report, model, card and ONNX are what they claim to be."""
    tab.get_by_role("link", name="Results", exact=True).click()
    expect(tab.locator("figure svg").first).to_be_visible()
    tab.get_by_role("button", name="Make ONNX").click()
    expect(tab.get_by_role("status").first).to_contain_text("model.onnx is written")
    report = download(tab, "Report", folder).read_text()
    assert report.startswith("<!DOCTYPE html>")
    assert FIRST in report
    assert "site-3" in report
    weights = load_file(download(tab, "Model", folder))
    assert weights.keys() == load_file(run.model_file).keys()
    assert FIRST in download(tab, "Model card", folder).read_text()
    onnx.checker.check_model(onnx.load(download(tab, "Model as ONNX", folder)), full_check=True)


def stop(tab: Page) -> int:
    """A study under way is stopped; how many rounds are complete."""
    tab.get_by_role("link", name="Stop", exact=True).click()
    tab.get_by_role("button", name="Stop", exact=True).click()
    expect(tab.get_by_text("The study is stopped.")).to_be_visible()
    expect(tab.locator(".badge", has_text="running")).to_have_count(0, timeout=1)
    expect(tab.locator(".badge", has_text="stopped")).to_be_visible()
    return int(re.search(r"(\d+) of 200", tab.locator("main").inner_text())[1])


def resume(tab: Page, done: int) -> None:
    """It goes on after its last complete round."""
    tab.get_by_role("link", name="Resume", exact=True).click()
    expect(tab.get_by_text(f"It goes on after round {done} of 200.")).to_be_visible()
    tab.get_by_role("button", name="Resume", exact=True).click()
    expect(tab.locator(".badge", has_text="running")).to_be_visible()
    expect(in_round(tab, done + 1)).to_be_visible()


def test_a_study_runs_from_invitation_to_report_on_the_pages(
    consortium, make_sites, join_site, studies, browser, tmp_path
):
    first, _, files = studies
    root, got = make_sites(3, PATIENTS, simulated=False, max_epsilon=100.0), tmp_path / "downloads"
    got.mkdir()
    settings = root / "site-2" / "site.toml"
    settings.write_text(settings.read_text().replace("max_epsilon = 100.0", "max_epsilon = 5.5"))
    (tmp_path / "password").write_text(PASSWORD)
    consortium.command("account", "anna", "--role", "approver", "--password-file", tmp_path / "password")

    desk = browser.open("page", "server.cli", "dashboard", "--dir", consortium.daemon.folder)
    log_in(desk)
    invite_and_admit(desk, consortium, root / "site-1")
    for name in ("site-2", "site-3"):
        join_site(root / name)
    one, two, three = (load_site(root / f"site-{number}") for number in (1, 2, 3))
    sent = {name: sign(desk, file, got) for name, file in files.items()}

    house = browser.open("console-1", "client.cli", "console", "--site", one.folder)
    add(house, *sent["first"])
    scan_and_approve(house, one, first)
    add(house, *sent["second"])
    approve(house, "second")
    for site in (two, three):
        ingest(site, first)
        for file, _ in sent.values():
            consortium.site_command(site.folder, "study", "approve", file)
    for site in (one, two, three):
        consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 3)
    go(desk, "Sites")
    expect(desk.locator(".badge", has_text="online")).to_have_count(3)

    run = RunFolder(consortium.daemon.runs / start(desk, FIRST))
    expect(place(desk, "site-1")).to_contain_text("training")
    expect(in_round(desk, 1)).to_contain_text("everyone who was asked took part")
    consortium.until(lambda: 2 in consortium.charged(three, first))
    consortium.kill("site-3")
    for site in ("site-1", "site-2"):
        expect(place(desk, site)).to_contain_text("sent")
    expect(desk.locator("main")).to_contain_text(re.compile(r"site-3\s*connection lost|site-3: failed"))
    go(house, "What left")
    expect(house.get_by_role("row", name=re.compile("first"))).not_to_have_count(0)
    expect(in_round(desk, 2)).to_contain_text("2 took part")
    expect(in_round(desk, 2)).to_contain_text(re.compile("site-3: (failed|answered too late), "))
    expect(desk.locator(".keys", has_text="Accuracy")).to_contain_text("%")
    expect(desk.locator(".badge", has_text="finished")).to_be_visible()
    assert desk.evaluate("window.neverLeft"), "all of it came to the page as it was"
    take_results(desk, got, run)

    start(desk, SECOND)
    expect(place(desk, "site-2")).to_contain_text("its privacy budget would have been overrun")
    refusing = browser.open("console-2", "client.cli", "console", "--site", two.folder)
    expect(refusing.get_by_text("this site said no")).to_contain_text("policy.max_epsilon is 5.5")
    go(refusing, "Budget")
    expect(refusing.get_by_text("Approved studies will not all fit")).to_be_visible()
    assert barriers(refusing) == []
    expect(in_round(desk, 1)).to_contain_text("site-2: refused, its privacy budget would have been overrun")
    done = stop(desk)
    assert done >= 1
    resume(desk, done)
    stop(desk)
    assert browser.complaints == []
