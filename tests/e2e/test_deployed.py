"""Failures of a deployed consortium: real SuperLink, executor, SuperNodes and runners, over TLS on loopback."""

from __future__ import annotations

import json
import os

import pytest

from client.audit_log import AuditLog
from common.errors import TrustError
from common.provenance import verify
from server.bundle import bundle_files
from server.launch import Launched
from server.run_folder import RunFolder

pytestmark = pytest.mark.slow

ALL = dict.fromkeys(("site-1", "site-2", "site-3"), ("ok", ""))


def statuses(record):
    return {part.site: (part.status, part.reason) for part in record.participation}


@pytest.mark.failure(
    "a site's network, for more than a minute of a round",
    seen="`gone`, then `back` in `logs`",
    ends="finished; the update that waited meanwhile counts",
    ledgers="charged once",
)
@pytest.mark.failure(
    "a site's node, killed in a round",
    seen="`gone`, `back`, and `asked` a second time",
    ends="finished; its second answer counts",
    ledgers="charged twice for that round",
)
@pytest.mark.failure(
    "a site's runner, killed in a round",
    seen="`asked` a second time, when Flower's lease of a minute has lapsed",
    ends="finished; its second answer counts",
    ledgers="charged twice for that round",
)
def test_a_cut_network_a_killed_node_and_a_killed_runner_cost_no_site_its_round(
    consortium, sites, small_study, proxy_for
):
    study = small_study(
        federation={"rounds": 3, "minimum_sites": 2, "deadline_minutes": 20.0},
        training={"local_steps": 60},
        model={"trainable": "head"},
    )
    without_network, without_runner, without_node = joined = sites(3, study)
    without_network, proxy = proxy_for(without_network)
    for site in (without_network, without_runner, without_node):
        consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 3)
    runner = consortium.child(without_runner.name, "client.runner")
    node = consortium.child(without_node.name, "client.supernode")
    launched = consortium.launch(study)
    consortium.until(lambda: consortium.happened(launched, event="asked", round=2), 400)
    proxy.cut()
    victims = {without_runner.name: (runner, without_runner), without_node.name: (node, without_node)}

    def begun() -> list[str]:
        return [name for name, (_, site) in victims.items() if 2 in consortium.charged(site, study)]

    while victims:
        consortium.until(begun, 300)
        for name in begun():
            victims.pop(name)[0].kill()  # in the middle of its training
    consortium.until(lambda: consortium.happened(launched, event="gone", site=without_network.name), 300)
    proxy.mend()
    results = consortium.finish(launched, 500)
    assert results.outcome == "finished", results.reason
    assert [statuses(record) for record in results.rounds] == [ALL] * 3
    assert consortium.charged(without_network, study) == (1, 2, 3)  # its work was delivered late, and not done twice
    assert consortium.charged(without_runner, study) == (1, 2, 2, 3)  # its work was lost: asked again, charged again
    assert consortium.charged(without_node, study) == (1, 2, 2, 3)
    for site in joined:
        AuditLog(site.audit_file).verify()


@pytest.mark.failure(
    "a site's network, so slow that its update takes longer than a round",
    seen="`late` with `deadline`, then with `busy`",
    ends="finished without it; the others wait no longer than the deadline",
    ledgers="charged for the round that it was asked",
)
def test_a_slow_link_holds_up_neither_the_other_sites_nor_the_run(consortium, sites, small_study, proxy_for):
    study = small_study(
        federation={"rounds": 2, "minimum_sites": 1, "deadline_minutes": 3.0}, training={"local_steps": 60}
    )
    quick, slow = sites(2, study)
    slow, proxy = proxy_for(slow)
    for site in (quick, slow):
        consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 2)
    launched = consortium.launch(study)
    consortium.until(lambda: consortium.charged(slow, study) == (1,), 300)  # it has the model, and trains
    proxy.slow = 60_000  # of 45 MB
    results = consortium.finish(launched, 600)
    assert results.outcome == "finished", results.reason
    assert [statuses(record) for record in results.rounds] == [
        {quick.name: ("ok", ""), slow.name: ("late", "deadline")},
        {quick.name: ("ok", ""), slow.name: ("late", "busy")},
    ]
    assert consortium.charged(quick, study) == (1, 2)
    assert consortium.charged(slow, study) == (1,)


# Put before everything else in each process of a site: its clock is ten minutes ahead.
WRONG_CLOCK = """
import datetime, time
ahead, right = datetime.timedelta(minutes=10), time.time
class Ahead(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + ahead
datetime.datetime, time.time = Ahead, lambda: right() + ahead.total_seconds()
"""
FULL_DISK = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY)); "


@pytest.mark.failure(
    "a node with a key that nobody admitted",
    seen='at the site: "the key is not admitted"; `status` shows no node',
    ends="finished without it",
    ledgers="nothing",
)
@pytest.mark.failure(
    "a site's clock, ten minutes ahead",
    seen='at the site: "this clock is wrong"; `status` never shows it online',
    ends="finished without it",
    ledgers="nothing",
)
@pytest.mark.failure(
    "a site's disk, full when the model comes",
    seen="`failed` with `storage`",
    ends="finished without it",
    ledgers="nothing: the model is kept before anything is charged",
)
def test_a_wrong_key_a_wrong_clock_and_a_full_disk_leave_a_site_out_and_nobody_else(
    consortium, sites, small_study, write_node_key, tmp_path
):
    study = small_study(
        federation={"rounds": 2, "minimum_sites": 1, "deadline_minutes": 20.0}, model={"trainable": "head"}
    )
    sound, wrong_clock, full_disk, wrong_key = joined = sites(4, study)
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(WRONG_CLOCK)
    write_node_key(wrong_key.node_dir / "node.key")
    consortium.start_site(sound)
    way = os.pathsep.join(filter(None, (str(tmp_path / "clock"), os.environ.get("PYTHONPATH"))))
    consortium.start_site(wrong_clock, PYTHONPATH=way)
    consortium.start_site(full_disk, first=FULL_DISK)
    consortium.start_site(wrong_key)
    for site in (wrong_clock, wrong_key):
        consortium.until(lambda site=site: "node ended with code" in consortium.said(site))
        assert "the key is not admitted or was revoked, or this clock is wrong" in consortium.said(site)
    consortium.until(lambda: consortium.online() == 2)
    launched = consortium.launch(study)
    results = consortium.finish(launched, 600)
    assert results.outcome == "finished", results.reason
    left = {sound.name: ("ok", ""), full_disk.name: ("failed", "storage")}
    assert [statuses(record) for record in results.rounds] == [left] * 2
    assert [consortium.charged(site, study) for site in joined] == [(1, 2), (), (), ()]
    failures = [entry for entry in AuditLog(full_disk.audit_file).read() if entry.kind == "refused-or-failed"]
    assert {entry.details["code"] for entry in failures} == {"storage"}
    assert consortium.online() == 2


CODE = "import pathlib; pathlib.Path({path!r}).touch(); app = None"


@pytest.mark.failure(
    "a bundle with code in it",
    seen="the reason of the run: `bundle-holds-code`",
    ends="failed; the code never ran",
    ledgers="nothing",
)
def test_a_bundle_with_code_is_refused_by_every_site_and_its_code_never_runs(consortium, sites, small_study, tmp_path):
    study = small_study(federation={"rounds": 1, "minimum_sites": 1})
    (site,) = sites(1, study)
    consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 1)
    folder = RunFolder(consortium.daemon.runs / "hostile")
    folder.prepare(study, tmp_path)
    files = bundle_files(study, 0, simulated=False, run="hostile")
    config = files["pyproject.toml"].replace(b'fab-include = ["/README.md", "/LICENSE"]\n', b"")
    code = CODE.format(path=str(tmp_path / "ran")).encode()
    hostile = {**files, "pyproject.toml": config, "client/__init__.py": code, "client/app.py": code}
    with consortium.daemon.control() as link:
        run = link.start_run(hostile)
    results = consortium.finish(Launched(folder, run))
    assert results.outcome == "failed"
    assert "site-1 (bundle-holds-code)" in results.reason
    assert not (tmp_path / "ran").exists()
    assert AuditLog(site.audit_file).read()[-1].details["code"] == "bundle-holds-code"


def test_commands_launch_show_and_stop_a_run(consortium, sites, small_study, study_file, tmp_path):
    study = small_study(federation={"rounds": 500, "minimum_sites": 1})
    (site,) = sites(1, study)
    consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 1)
    study_file(tmp_path / "study.toml", study)
    home = tmp_path / "coordinator"

    command = consortium.command
    assert "Started 'small'" in command("launch", tmp_path / "study.toml")
    (shown,) = json.loads(command("runs", "--json"))
    assert (shown["state"], shown["rounds"]) == ("running", 500)
    events = home / "runs" / shown["name"] / "run" / "events.jsonl"
    consortium.until(lambda: events.exists() and '"event": "round"' in events.read_text())
    assert command("stop", shown["name"]) == f"Stopped '{shown['name']}'\n"
    (shown,) = json.loads(command("runs", "--json"))
    assert shown["state"] == "stopped"
    assert shown["round"] >= 1
    assert command("stop", shown["name"]) == f"'{shown['name']}' was over already\n"


@pytest.mark.failure(
    "the run's process, killed while it aggregates",
    seen="`runs`: stopped; then `resume`",
    ends="finished; that round is repeated",
    ledgers="that round charged once more",
)
@pytest.mark.failure(
    "all of the coordinator, killed while sites train",
    seen="nothing to do after `start`: the run goes on by itself",
    ends="finished; that round is repeated",
    ledgers="charged once more where the training had begun",
)
def test_a_coordinator_killed_in_a_round_goes_on_without_losing_or_repeating_a_complete_round(
    consortium, sites, small_study
):
    study = small_study(
        federation={"rounds": 3, "minimum_sites": 2, "deadline_minutes": 20.0, "strategy": "fedavgm"},
        model={"trainable": "head"},
    )
    joined = sites(2, study)
    for site in joined:
        consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 2)
    launched = consortium.launch(study)
    name = launched.folder.root.name
    consortium.until(lambda: consortium.happened(launched, event="reply", round=1), 400)
    consortium.server_app().kill()  # while it aggregates
    consortium.command("stop", name)  # else it takes Flower a minute to notice
    assert json.loads(consortium.command("runs", "--json"))[0]["state"] == "stopped"
    assert "goes on after round 0 of 3" in consortium.command("resume", name)
    consortium.until(lambda: consortium.happened(launched, event="asked", round=2), 400)
    consortium.kill("coordinator")  # while sites train
    consortium.start_coordinator()  # and nobody does anything more
    results = consortium.finish(launched, 600)
    assert results.outcome == "finished", results.reason
    assert [record.round for record in results.rounds] == [1, 2, 3]
    assert all(p.status == "ok" for record in results.rounds for p in record.participation)
    assert [summary.rounds_ok for summary in results.sites] == [3, 3]
    for site in joined:
        charged = consortium.charged(site, study)
        assert charged in ((1, 1, 2, 3), (1, 1, 2, 2, 3))  # once more for what was broken off, if it had been begun
        AuditLog(site.audit_file).verify()
    shown = json.loads(consortium.command("rounds", name, "--json"))
    assert [record["round"] for record in shown] == [1, 2, 3]
    assert consortium.command("logs", name).count("  resumed  ") == 2
    assert results.model_sha256 in consortium.command("model", name, "--out", consortium.folder / "copy.safetensors")
    coordinator = joined[
        0
    ].config.coordinator  # the hospital checks what it is given against the key that it joined with
    sealed = verify(launched.folder.root, coordinator.study_key)
    assert (sealed.rounds, sealed.records, sealed.vouched) == (3, True, True)
    card = launched.folder.card_json
    card.write_bytes(card.read_bytes().replace(b"Research", b"Clinical"))
    with pytest.raises(TrustError, match="not the card"):
        verify(launched.folder.root, coordinator.study_key)


@pytest.mark.failure(
    "the SuperLink, killed in a round",
    seen="`coordinator`'s output: ended, started",
    ends="finished; nothing is repeated",
    ledgers="charged once a round",
)
def test_a_superlink_killed_in_a_round_is_back_and_the_run_goes_on(consortium, sites, small_study):
    study = small_study(federation={"rounds": 3, "minimum_sites": 1}, training={"local_steps": 5})
    (site,) = sites(1, study)
    consortium.start_site(site)
    consortium.until(lambda: consortium.online() == 1)
    link = consortium.child("coordinator", "server.superlink")
    launched = consortium.launch(study)
    consortium.until(lambda: 2 in consortium.charged(site, study), 120)
    link.kill()
    results = consortium.finish(launched, 300)
    assert results.outcome == "finished", results.reason
    assert [p.status for r in results.rounds for p in r.participation] == ["ok"] * 3
    assert consortium.charged(site, study) == (1, 2, 3)
