"""A site with a page, and browsers of people of each role that look at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from client.audit_log import AuditLog
from client.console.app import site_app
from client.proposals import propose
from client.site import CoordinatorSettings, DataSettings, PolicySettings, Site, SiteConfig, create_site
from common.pki import keys
from common.pki.signature import sign_study
from common.study import Study
from common.web.accounts import FILE, Accounts
from common.web.serve import LOCAL_NAMES, Exposure

PORT, PASSWORD = 8461, "correct horse battery"
ORIGIN = f"http://127.0.0.1:{PORT}"
KEY = keys.new_study_key()


@dataclass
class Served:
    """The page of one site."""

    site: Site
    app: FastAPI

    def browser(self, role: str = "") -> TestClient:
        """A browser that somebody of this role is logged in with; nobody if it is empty."""
        browser = TestClient(
            self.app, base_url=ORIGIN, headers={"origin": ORIGIN, "accept": "text/html"}, follow_redirects=False
        )
        if role:
            found = browser.post("/login", data={"name": f"the-{role}", "password": PASSWORD})
            assert found.status_code == 303
        return browser

    def log(self, kind: str) -> list[dict]:
        return [dict(entry.details) for entry in AuditLog(self.site.audit_file).read() if entry.kind == kind]


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch):
    """Hashing is slow on purpose; here it need not be."""
    monkeypatch.setattr("common.web.accounts._LOG_N", 4)


@pytest.fixture
def make_page(tmp_path) -> Callable[..., Served]:
    """The page of a site that joined a coordinator; keywords are of its policy."""

    def make(title: str = "St. Anna", *, link: bool = False, **policy) -> Served:
        joined = CoordinatorSettings(
            address="coordinator.example:8443", study_key=keys.study_public(KEY), invitation="0" * 64
        )
        settings = PolicySettings(**{"max_epsilon": 20.0, "max_delta": 1e-3, **policy})
        data = DataSettings(dicom=str(tmp_path / "dicom"), labels=str(tmp_path / "labels.csv"))
        config = SiteConfig(name="st-anna", title=title, data=data, policy=settings, coordinator=joined)
        site = create_site(tmp_path / "st-anna", config)
        accounts = None if link else Accounts(site.folder / FILE)
        for role in ("viewer", "operator", "approver") if accounts else ():
            accounts.put(f"the-{role}", role, PASSWORD)
        where = Exposure("127.0.0.1", PORT, LOCAL_NAMES, accounts)
        return Served(site, site_app(site, where, lambda _text: None))

    return make


@pytest.fixture
def page(make_page) -> Served:
    return make_page()


@pytest.fixture
def signed(study_file, tmp_path) -> Callable[[Study], dict[str, tuple[str, bytes]]]:
    """A study and its signature as the two files of the form."""

    def make(study: Study) -> dict[str, tuple[str, bytes]]:
        path: Path = tmp_path / "sent.toml"
        study_file(path, study)
        return {
            "study": ("study.toml", path.read_bytes()),
            "signature": ("study.toml.sig", sign_study(study, KEY).encode()),
        }

    return make


@pytest.fixture
def post(signed) -> Callable[..., object]:
    """Send a form of the page with its token; ``study`` adds that study's two files."""

    def send(browser: TestClient, path: str, data: dict | None = None, study: Study | None = None):
        token = browser.get("/studies").text.split('name="csrf" value="')[1].split('"')[0]
        files = signed(study) if study is not None else None
        return browser.post(path, data={**(data or {}), "csrf": token}, files=files)

    return send


@pytest.fixture
def waiting(page, small_study) -> Study:
    """A study that waits at ``page``."""
    study = small_study(title="Bones & <b>joints</b>")
    propose(page.site, study, sign_study(study, KEY))
    return study


@pytest.fixture
def key():
    """What the coordinator signs studies with."""
    return KEY
