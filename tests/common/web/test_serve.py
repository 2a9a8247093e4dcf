"""Where a page may be reached, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from common.errors import UsageError
from common.web.accounts import Accounts
from common.web.serve import exposure, listen, meanwhile

PASSWORD = "correct horse battery"


@pytest.fixture
def certificate(tmp_path, write_certificates):
    write_certificates(tmp_path)
    return tmp_path / "server.crt", tmp_path / "server.key"


def test_without_accounts_or_tls_a_page_is_for_this_machine_alone(tmp_path, certificate):
    accounts = Accounts(tmp_path / "accounts.toml")
    assert exposure("127.0.0.1", 8460, accounts, None, None).accounts is None
    for host in ("0.0.0.0", "192.0.2.1", "::", "localhost"):
        with pytest.raises(UsageError, match="no accounts"):
            exposure(host, 8460, accounts, *certificate)
    accounts.put("anna", "viewer", PASSWORD)
    assert exposure("127.0.0.1", 8460, accounts, None, None).accounts is accounts
    with pytest.raises(UsageError, match="no TLS"):
        exposure("0.0.0.0", 8460, accounts, None, None)
    with pytest.raises(UsageError, match="belong together"):
        exposure("0.0.0.0", 8460, accounts, certificate[0], None)
    outside = exposure("0.0.0.0", 8460, accounts, *certificate)
    assert (outside.secure, outside.names, outside.origin) == (True, ("127.0.0.1",), "https://127.0.0.1:8460")


def test_a_port_that_is_taken_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UsageError, match="Address already in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_work_beside_a_page_is_told_to_stop_and_waited_for():
    seen = []

    def work(stopping):
        seen.append("begun")
        stopping.wait(60)
        seen.append(stopping.is_set())

    with pytest.raises(KeyboardInterrupt), meanwhile(work):
        raise KeyboardInterrupt
    assert seen == ["begun", True]


SERVE = """
import sys, threading
from fastapi import APIRouter
from starlette.responses import PlainTextResponse
from fastapi import Request
from common.web.live import stream
from common.web.page import Page, View, page_app
from common.web.serve import Exposure, listen, serve
router = APIRouter()
@router.get("/")
def home(view: View): return PlainTextResponse("home")
@router.get("/live")
def live(request: Request): return stream(request, lambda: 1, lambda: {"state": "<p>one\\ntwo</p>"})
listener = listen("127.0.0.1", 0)
port = listener.getsockname()[1]
where = Exposure("127.0.0.1", port, ("127.0.0.1",), None)
page = Page("T", "common.web", (), ("127.0.0.1",), port, where.origin, None, False, lambda a: None, lambda s: None)
app = page_app(page, router)
serve(app, listener, where, lambda: print(app.state.door.link, flush=True))
print("over", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_page_cleanly_though_somebody_is_watching(number, tmp_path):
    code = f"import signal\nfor n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, signal.default_int_handler)\n{SERVE}"
    call = [sys.executable, "-P", "-c", code]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ}) as process:
        try:
            link = process.stdout.readline().strip()
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
            with opener.open(link, timeout=60) as home:
                assert home.read() == b"home"
            with opener.open(link.split("/enter")[0] + "/live", timeout=60) as watching:
                shown = [watching.readline() for _ in range(4)]
                process.send_signal(number)
                assert process.stdout.read() == "over\n"
            assert shown == [b"event: state\n", b"data: <p>one\n", b"data: two</p>\n", b"\n"]
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                process.kill()
