from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest

from client.audit_log import AuditLog
from client.contact import ContactBook
from client.health import Standing, watched
from client.ledger import Ledger
from client.metrics import METRICS, Sample, exposition
from client.node import BOTH
from client.site import SiteConfig, create_site
from common.errors import SiteError
from common.flower_env import free_port
from common.privacy.events import Gaussian
from common.supervisor import Event

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PLANTED = "DOE^JANE 1970-01-01"


@pytest.fixture
def site(tmp_path):
    made = create_site(tmp_path / "site", SiteConfig(name="site-1", simulated=True))
    made.node_dir.mkdir()
    return made


@pytest.fixture
def node_port():
    """Where something listens, as a node would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


class Clock:
    def __init__(self):
        self.seconds = 0.0

    def monotonic(self):
        return self.seconds

    def now(self):
        return NOW + timedelta(seconds=self.seconds)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def standing(site, node_port, clock):
    """Node and runner are up, and the coordinator accepted a request just now."""
    made = Standing(site, BOTH, node_port, clock=clock.monotonic, now=clock.now)
    for number, part in enumerate(BOTH):
        made.happened(Event(part, "started", 100 + number))
    ContactBook(site.node_dir, node_port, clock.now).note("")
    return made


def test_a_site_whose_node_and_runner_work_and_that_is_heard_is_healthy(standing):
    assert standing.problems() == ()


def test_a_node_that_answers_nobody_is_seen(site, clock, standing):
    assert Standing(site, ("node",), free_port(), now=clock.now).problems() == ("node-down",)


@pytest.mark.parametrize("problem", ["certificate", "proxy", "unreachable", "not-accepted", "answer-503"])
def test_a_daemon_that_runs_and_only_ever_fails_to_connect_is_never_healthy(standing, site, clock, problem):
    book = ContactBook(site.node_dir, 1, clock.now)
    for _ in range(100):
        clock.seconds += 3600
        book.note(problem)
        assert standing.problems() == (problem,)


def test_silence_is_seen_though_everything_runs(standing, clock):
    clock.seconds = 121
    assert standing.problems() == ("contact-lost",)


def test_a_runner_that_is_gone_or_keeps_ending_is_seen(standing, clock):
    standing.happened(Event("runner", "ended", 101, 1))
    assert standing.problems() == ("runner-down",)
    for number in range(5):
        clock.seconds += 10
        standing.happened(Event("runner", "started", 200 + number))
        assert standing.problems() == ("runner-down",)
        standing.happened(Event("runner", "ended", 200 + number, 1))
    standing.happened(Event("runner", "started", 300))
    clock.seconds += 31
    assert standing.problems() == ()


def test_records_that_were_tampered_with_are_seen_also_after_they_were_read(standing, site):
    AuditLog(site.audit_file).append("release", {"study": "a" * 64})
    assert standing.problems() == ()
    site.audit_file.write_bytes(site.audit_file.read_bytes().replace(b"release", b"nothing"))
    assert standing.problems() == ("records-damaged",)


def test_the_nodes_half_reads_nothing_of_the_site(site, node_port, clock, standing, monkeypatch):
    monkeypatch.setattr("client.health.records_of", lambda _: pytest.fail("the node's half read the records"))
    half = Standing(site, ("node",), node_port, now=clock.now)
    assert half.problems() == ()
    assert not {s.name for s in half.samples()} & {"fedct_site_answers_total", "fedct_site_epsilon_spent"}


def test_the_metrics_count_answers_and_restarts_and_say_what_is_spent(standing, site):
    log = AuditLog(site.audit_file)
    for kind, code in (("release", None), ("release", None), ("refused-or-failed", "budget-exceeded")):
        log.append(kind, {"code": code, "error": f"ValueError: {PLANTED}"})
    Ledger(site.ledger_file).reserve(
        cohort="default", study_digest="a" * 64, round_=1, events=[Gaussian(10.0)], max_epsilon=8, max_delta=1e-5
    )
    standing.happened(Event("runner", "ended", 101, 1))
    standing.happened(Event("runner", "started", 102))
    found = {(s.name, *s.labels.values()): s.value for s in standing.samples()}
    assert found["fedct_site_answers_total", "ok"] == 2
    assert found["fedct_site_answers_total", "budget-exceeded"] == 1
    assert (found["fedct_site_restarts_total", "node"], found["fedct_site_restarts_total", "runner"]) == (0, 1)
    assert found["fedct_site_epsilon_spent", "default"] == pytest.approx(0.34, abs=0.01)  # docs/site-guide.md
    assert found["fedct_site_study_epsilon_spent", "a" * 12] == found["fedct_site_epsilon_spent", "default"]
    assert found["fedct_site_epsilon_limit", "default"] == 8
    assert found["fedct_site_healthy",] == 0
    assert found["fedct_site_problem", "runner-down"] == 1


def test_the_page_is_prometheus_text_and_names_no_patient(standing, site):
    AuditLog(site.audit_file).append("refused-or-failed", {"code": "data-unusable", "error": PLANTED})
    page = exposition(standing.samples())
    assert "# TYPE fedct_site_healthy gauge\nfedct_site_healthy 1\n" in page
    assert 'fedct_site_answers_total{code="data-unusable"} 1\n' in page
    assert page.count("# HELP") == page.count("# TYPE") == len({s.name for s in standing.samples()})
    assert "DOE" not in page
    assert not [name for name in METRICS if "patient" in name or "example" in name or "file" in name]


def test_a_label_is_escaped():
    page = exposition([Sample("fedct_site_problem", 1, {"code": 'a"b\\c\nd'})])
    assert page.splitlines()[-1] == 'fedct_site_problem{code="a\\"b\\\\c\\nd"} 1'


def fetch(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_endpoint_answers_200_or_503_with_codes(standing, clock):
    port = free_port()
    with watched(standing, port):
        assert fetch(port, "/health") == (200, json.dumps({"healthy": True, "problems": []}))
        clock.seconds = 1000
        assert fetch(port, "/health") == (503, json.dumps({"healthy": False, "problems": ["contact-lost"]}))
        assert "fedct_site_seconds_since_contact 1000\n" in fetch(port, "/metrics")[1]
        assert fetch(port, "/")[0] == fetch(port, "/health/../site.toml")[0] == 404
    with pytest.raises(urllib.error.URLError):
        fetch(port, "/health")


def test_the_endpoint_is_on_loopback_alone(standing):
    port = free_port()
    host = socket.gethostbyname(socket.gethostname())
    with watched(standing, port), contextlib.suppress(OSError):
        if not host.startswith("127."):
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, port), 5)
        assert fetch(port, "/health")[0] == 200


def test_without_a_port_there_is_no_endpoint(standing, monkeypatch):
    monkeypatch.setattr("client.health.ThreadingHTTPServer", lambda *_: pytest.fail("an endpoint was made"))
    with watched(standing, 0):
        pass


def test_a_port_that_is_taken_is_named(standing, node_port):
    with pytest.raises(SiteError, match=f"service.metrics_port = {node_port}"), watched(standing, node_port):
        pass
