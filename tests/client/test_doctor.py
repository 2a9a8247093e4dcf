from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from client import doctor_machine as machine
from client import doctor_studies as studies
from client.audit_log import AuditLog
from client.cli import main
from client.contact import ContactBook
from client.doctor import Check, Findings, attempt, diagnose
from client.ingest.build import ingest
from client.ledger import Ledger
from client.participation import readiness
from client.site import ServiceSettings, Site, load_site
from client.standing import hold
from common.errors import BudgetExceeded, DataError, NotHealthy, PolicyRefusal
from common.flower_env import free_port
from common.privacy.events import Gaussian


@pytest.fixture(scope="module")
def study(small_study):
    return small_study()


@pytest.fixture
def ready(make_sites, study):
    """A site with a cohort that approved the study."""
    site = load_site(make_sites(1) / "site-1")
    ingest(site, study)
    site.approve(study)
    return site


def with_policy(site: Site, **values) -> Site:
    policy = site.config.policy.model_copy(update=values)
    return replace(site, config=site.config.model_copy(update={"policy": policy}))


def by_name(checks) -> dict[str, Check]:
    return {check.name.split(": ")[-1]: check for check in checks}


def states(checks) -> dict[str, str]:
    return {name: check.state for name, check in by_name(checks).items()}


def test_a_study_that_would_run_passes_every_check(ready, study):
    found = studies.of_study(ready, study)
    assert states(found) == dict.fromkeys(("approval", "hours", "cohort", "files", "budget"), "ok")
    assert all(check.name.startswith("small: ") for check in found)
    words = by_name(found)
    assert "5 patients" not in words["cohort"].found
    assert "dark 3" in words["cohort"].found
    assert study.digest[:12] in words["approval"].found


@pytest.mark.parametrize(
    ("policy", "failing"),
    [
        ({"max_epsilon": 0.1}, {"approval", "budget"}),
        ({"max_steps": 1}, {"approval"}),
        ({"max_parameters": 10}, {"approval"}),
    ],
)
def test_what_a_round_would_refuse_the_doctor_refuses(ready, study, policy, failing):
    site = with_policy(ready, **policy)
    found = studies.of_study(site, study)
    with pytest.raises(PolicyRefusal):
        readiness(site, study)
    assert {name for name, state in states(found).items() if state == "fail"} == failing
    assert all(check.remedy for check in found if check.state == "fail")


def test_the_doctor_makes_no_file_since_root_may_run_it_and_the_trainer_must_write_them(ready, study):
    before = {path.name for path in ready.folder.iterdir()}
    diagnose(ready, ["runner"], study)
    assert {path.name for path in ready.folder.iterdir()} == before


def test_a_study_that_is_not_approved_fails(ready, small_study):
    assert states(studies.of_study(ready, small_study(name="other")))["approval"] == "fail"


def test_out_of_hours_and_after_too_many_rounds_it_is_not_the_time(ready, study):
    now = datetime.now().astimezone()
    hour = (now.hour + 2) % 24
    closed = with_policy(ready, hours=f"{hour:02}:00-{(hour + 1) % 24:02}:30")
    assert states(studies.of_study(closed, study))["hours"] == "fail"
    AuditLog(ready.audit_file).append("round", {"study": study.digest, "round": 1, "training": True})
    assert states(studies.of_study(with_policy(ready, max_rounds_a_day=1), study))["hours"] == "fail"
    assert states(studies.of_study(with_policy(ready, max_rounds_a_day=2), study))["hours"] == "ok"


def test_a_cohort_that_is_missing_or_damaged_fails(ready, study):
    (folder,) = ready.cohorts_dir.glob("[!.]*")
    planes = folder / "planes.npy"
    os.truncate(planes, planes.stat().st_size - 1)
    with pytest.raises(DataError):
        readiness(ready, study)
    assert states(studies.of_study(ready, study))["cohort"] == "fail"


@pytest.mark.parametrize("what", ["a new file", "a changed label", "a changed file"])
def test_data_that_changed_since_the_ingest_are_warned_about(ready, study, what):
    if what == "a new file":
        (ready.dicom_dir / "new").write_bytes(b"x")
    elif what == "a changed label":
        ready.labels_file.write_text(ready.labels_file.read_text().replace("bright", "dark", 1))
    else:
        os.utime(next(path for path in ready.dicom_dir.rglob("*") if path.is_file()), (1, 1))
    assert states(studies.of_study(ready, study))["files"] == "warn"


def test_a_cohort_of_another_release_is_warned_about(ready, study, monkeypatch):
    monkeypatch.setattr(studies, "VERSION", "9.9.9")
    assert states(studies.of_study(ready, study))["cohort"] == "warn"


def spend(site: Site, digest: str, sigma: float, round_: int = 1) -> None:
    Ledger(site.ledger_file).reserve(
        cohort="default",
        study_digest=digest,
        round_=round_,
        events=[Gaussian(sigma)],
        max_epsilon=1000,
        max_delta=site.config.policy.max_delta,
    )


def test_a_budget_that_another_study_spent_refuses_a_new_one_as_the_round_would(ready, study):
    spend(ready, "b" * 64, 0.06)
    with pytest.raises(BudgetExceeded):
        readiness(ready, study)
    assert states(studies.of_study(ready, study))["budget"] == "fail"


def test_a_study_under_way_is_asked_for_its_next_round_and_not_for_all_of_it_again(ready, study):
    site = with_policy(ready, max_epsilon=8.01)
    assert states(studies.of_study(site, study))["budget"] == "ok"
    spend(site, study.digest, 5.0)
    readiness(site, study, 2)
    found = by_name(studies.of_study(site, study))["budget"]
    assert (found.state, "1 of 2 rounds were charged" in found.found) == ("ok", True)
    spend(site, study.digest, 0.6)
    with pytest.raises(BudgetExceeded):
        readiness(site, study, 2)
    assert by_name(studies.of_study(site, study))["budget"].state == "fail"


def test_without_an_approved_study_there_is_nothing_to_take_part_in(make_sites):
    site = load_site(make_sites(1) / "site-1")
    assert [(check.name, check.state) for check in studies.of_all(site)] == [("studies", "fail")]


def test_one_approved_study_that_can_run_is_enough(ready, small_study):
    ready.approve(small_study(name="old", training={"learning_rate": 0.05, "local_steps": 9000, "batch_patients": 2}))
    found = studies.of_all(ready)
    assert "fail" not in {check.state for check in found}
    assert {check.state for check in found if check.name.startswith("old")} == {"ok", "warn"}
    assert {check.state for check in found if check.name.startswith("small")} == {"ok"}


def test_an_approval_that_this_release_can_not_read_is_named(ready, study):
    path = ready.folder / "approved" / f"{study.digest}.json"
    path.write_text(path.read_text().replace('"format":1', '"format":2'))
    (found,) = studies.of_all(ready)
    assert (found.state, study.digest[:12] in found.name) == ("fail", True)


def test_an_approval_under_another_digest_is_named(ready, study):
    path = ready.folder / "approved" / f"{study.digest}.json"
    path.rename(path.with_name(f"{'0' * 64}.json"))
    (found,) = studies.of_all(ready)
    assert (found.state, study.digest[:12] in found.found) == ("fail", True)


def test_records_that_were_tampered_with_fail(ready):
    log = AuditLog(ready.audit_file)
    log.append("release", {})
    assert studies.audit_log(ready).state == "ok"
    ready.audit_file.write_bytes(ready.audit_file.read_bytes().replace(b"release", b"nothing"))
    (found,) = attempt("audit log", lambda: studies.audit_log(ready))
    assert (found.state, bool(found.remedy)) == ("fail", True)
    assert studies.ledger(ready).state == "ok"
    spend(ready, "a" * 64, 10.0)
    ready.ledger_file.with_suffix(".head").unlink()
    assert attempt("ledger", lambda: studies.ledger(ready))[0].state == "fail"


@pytest.mark.parametrize(("free", "state"), [(1e8, "fail"), (1e9, "warn"), (1e11, "ok")])
def test_a_disk_without_room_for_the_ledger_fails(ready, monkeypatch, free, state):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert (machine.disk(ready).state, bool(machine.disk(ready).remedy)) == (state, state != "ok")


@pytest.mark.parametrize(("free", "state"), [(5e8, "fail"), (2e9, "warn"), (8e9, "ok")])
def test_memory_that_no_round_fits_into_fails(monkeypatch, free, state):
    monkeypatch.setattr(machine.psutil, "virtual_memory", lambda: SimpleNamespace(available=free, total=16e9))
    assert (machine.memory().state, bool(machine.memory().remedy)) == (state, state != "ok")


@pytest.mark.parametrize("there", [True, False])
def test_a_gpu_is_never_said_to_be_what_rounds_run_on(monkeypatch, there):
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some GPU")
    found = machine.gpu().found
    assert "rounds run on" in found
    assert found.endswith("processor cores")
    assert ("Some GPU is there and stays idle" in found) is there


def test_node_contact_and_runner_are_seen_as_they_come_and_go(ready):
    looks = (machine.node, machine.contact, machine.runner)
    assert [look(ready).state for look in looks] == ["fail"] * 3
    assert all(look(ready).remedy for look in looks)
    ready.node_dir.mkdir()
    ready.runner_dir.mkdir()
    with machine_port() as port, hold(ready.runner_dir):
        ContactBook(ready.node_dir, port).note("")
        assert [look(ready).state for look in looks] == ["ok"] * 3
        ContactBook(ready.node_dir, port).note("certificate")
        assert (machine.contact(ready).state, "certificate" in machine.contact(ready).found) == ("fail", True)
    assert [look(ready).state for look in looks] == ["fail"] * 3


@contextlib.contextmanager
def machine_port():
    """A port of loopback that answers, as a node's would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_sites_own_port_is_asked_where_it_has_one(ready):
    service = ServiceSettings(port=free_port())
    moved = replace(ready, config=ready.config.model_copy(update={"service": service}))
    ready.node_dir.mkdir()
    with machine_port() as port:
        ContactBook(ready.node_dir, port).note("")
        assert machine.node(moved).state == "fail"


def test_a_file_that_this_user_may_not_read_is_named_with_the_way_out():
    def look():
        raise PermissionError(13, "Permission denied", "/site/node/node.key")

    (found,) = attempt("enrolment", look)
    assert (found.state, "/site/node/node.key" in found.found, "--part" in found.remedy) == ("fail", True, True)


def test_healthy_means_that_nothing_failed_and_something_was_looked_at():
    assert not Findings("s", ()).healthy
    assert Findings("s", (Check("a", "ok", ""), Check("b", "warn", "", "x"))).healthy
    assert not Findings("s", (Check("a", "ok", ""), Check("b", "fail", "", "x"))).healthy


def test_each_half_is_looked_at_by_its_own_user(ready, study):
    node = {check.name for check in diagnose(ready, ["node"], study).checks}
    runner = {check.name for check in diagnose(ready, ["runner"], study).checks}
    assert node == {"disk", "memory", "enrolment", "node", "contact"}  # a simulated site joined nobody
    assert {"gpu", "runner", "ledger", "audit log", "small: budget"} <= runner
    assert not runner & {"enrolment", "connection", "registration"}


def test_the_command_shows_each_check_with_its_remedy_and_ends_with_its_own_code(ready, typed):
    code, shown, error = typed(main, "fedct-site")("doctor", "--site", ready.folder, "--part", "runner")
    assert (code, NotHealthy.exit_code) == (13, 13)
    assert "1 of " in error
    assert len(error.splitlines()) == 1
    lines = shown.splitlines()
    assert [line for line in lines if "FAIL" in line and " runner " in line]
    assert any("-> Start it" in line for line in lines)
    assert len(lines) <= 24


def test_with_nothing_amiss_it_says_so_and_the_code_is_zero(ready, typed):
    ready.runner_dir.mkdir()
    with hold(ready.runner_dir):
        code, shown, error = typed(main, "fedct-site")("doctor", "--site", ready.folder, "--part", "runner")
        assert (code, error) == (0, "")
        assert shown.splitlines()[-1] == "site-1: would take part in the next round"
        code, shown, _ = typed(main, "fedct-site")("doctor", "--site", ready.folder, "--part", "runner", "--json")
    found = json.loads(shown)
    assert (code, found["healthy"], found["site"]) == (0, True, "site-1")
    assert [check["number"] for check in found["checks"]] == list(range(1, len(found["checks"]) + 1))
    assert set(found["checks"][0]) == {"number", "name", "state", "found", "remedy"}


def test_the_time_of_a_contact_is_utc(ready):
    ready.node_dir.mkdir()
    ContactBook(ready.node_dir, 1, lambda: datetime(2026, 1, 1, tzinfo=UTC)).note("")
    assert "2026-01-01T00:00:00+00:00" in machine.contact(ready).found
