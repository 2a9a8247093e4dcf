"""fedct-site console and fedct-site account, as they are typed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import httpx
import pytest

from client.cli import main
from client.site import SiteConfig, create_site
from common.errors import UsageError
from common.web.accounts import FILE, Accounts


@pytest.fixture
def call(typed):
    return typed(main, "fedct-site")


@pytest.fixture
def folder(tmp_path):
    return create_site(tmp_path / "st-anna", SiteConfig(name="st-anna", simulated=True)).folder


def test_a_person_is_given_an_account_and_loses_it(call, folder, tmp_path):
    (tmp_path / "password").write_text("four or five words\n")
    code, shown, _ = call(
        "account", "anna", "--role", "approver", "--site", folder, "--password-file", tmp_path / "password"
    )
    assert (code, "'anna' may use the page as approver" in shown) == (0, True)
    assert Accounts(folder / FILE).check("anna", "four or five words").role == "approver"
    assert call("account", "anna", "--remove", "--site", folder)[0] == 0
    assert Accounts(folder / FILE).read() == {}


@pytest.mark.parametrize(
    "words",
    [("anna", "--role", "boss"), ("anna", "--remove"), ("Anna B", "--password-file", "p"), ("a", "--role", "viewer")],
)
def test_a_wrong_account_is_one_line(call, folder, tmp_path, words):
    (tmp_path / "p").write_text("four or five words")
    code, _, errors = call("account", *words, "--site", folder)
    assert (code, len(errors.splitlines())) == (UsageError.exit_code, 1)


def test_the_page_is_not_shown_to_the_network_without_tls_and_accounts(call, folder):
    code, _, errors = call("console", "--site", folder, "--host", "0.0.0.0", "--port", "0")
    assert (code, "there are no accounts" in errors) == (UsageError.exit_code, True)


@pytest.mark.slow
def test_the_command_serves_the_page_until_it_is_told_to_stop(folder):
    call = [
        sys.executable,
        "-c",
        "from client.cli import main; main()",
        "console",
        "--site",
        str(folder),
        "--port",
        "0",
    ]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, env={**os.environ, "NO_COLOR": "1"}) as process:
        try:
            link = process.stdout.readline().split()[-1]
            with httpx.Client(trust_env=False, timeout=60) as browser:
                assert browser.get(link, follow_redirects=False).status_code == 303
                origin = link.split("/enter")[0]
                assert "No study waits" in browser.get(f"{origin}/studies").text
                assert browser.get(link, follow_redirects=False).status_code == 403
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, 130)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
