"""The main job through Flower's simulation runtime, on real processes."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
import urllib.request

import pytest
from safetensors.torch import load_file

from client.audit_log import AuditLog
from client.ledger import Ledger
from client.site import load_sites
from server.results import read_results
from simulations.split import split

pytestmark = pytest.mark.slow


def finished(process, seconds=400):
    output, _ = process.communicate(timeout=seconds)
    return output


def test_a_private_study_runs_from_dicom_to_report_and_leaves_nothing_running(
    start, left, to_toml, make_sites, small_study, tmp_path
):
    study = small_study(federation={"rounds": 3, "minimum_sites": 2})
    root, out = make_sites(3), tmp_path / "out"
    (tmp_path / "study.toml").write_text(to_toml(study))
    process = start("run", tmp_path / "study.toml", "--sites", root, "--out", out, "--compare", "local,central")
    output = finished(process)
    assert process.returncode == 0, output
    assert f"Report: {out / 'report.html'}" in output
    results = read_results(out / "results.json")
    assert results.study_digest == study.digest
    assert results.outcome == "finished"
    assert [r.round for r in results.rounds] == [1, 2, 3]
    assert all(p.status == "ok" for r in results.rounds for p in r.participation)
    assert {s.site for s in results.sites} == {"site-1", "site-2", "site-3"}
    assert set(results.comparisons) == {"local", "central"}
    assert results.final.pooled.cases > 0
    assert results.privacy.on
    for site, summary in zip(load_sites(root), results.sites, strict=True):
        ledger = Ledger(site.ledger_file)
        assert ledger.rounds_charged("default", study.digest) == (1, 2, 3)
        assert 0 < summary.epsilon <= study.privacy.epsilon
        assert summary.epsilon == pytest.approx(ledger.spent("default", study.privacy.delta))
        assert AuditLog(site.audit_file).verify() == 2 * 4  # begun and released: three rounds and an evaluation
    assert load_file(out / "model.safetensors")["fc.weight"].shape == (2, 512)
    assert (out / "model-card.md").read_text().startswith("#")
    assert "<html" in (out / "report.html").read_text()
    assert left() == []


def test_without_privacy_the_seed_fixes_the_model(start, to_toml, make_sites, small_study, tmp_path):
    study = small_study(privacy={"unit": "off"}, federation={"rounds": 1})
    root = make_sites(2)
    (tmp_path / "study.toml").write_text(to_toml(study))
    digests = []
    for name in ("a", "b"):
        process = start("run", tmp_path / "study.toml", "--sites", root, "--out", tmp_path / name, "--seed", "5")
        output = finished(process)
        assert process.returncode == 0, output
        digests.append(read_results(tmp_path / name / "results.json").model_sha256)
    assert "unchanged since the last ingest" in output
    assert digests[0] == digests[1]


def test_a_run_ends_by_serving_the_page_with_its_history_until_it_is_stopped(
    start, left, to_toml, make_sites, small_study, tmp_path
):
    study = small_study(privacy={"unit": "off"}, federation={"rounds": 2})
    root, out = make_sites(2), tmp_path / "out"
    (tmp_path / "study.toml").write_text(to_toml(study))
    process = start("run", tmp_path / "study.toml", "--sites", root, "--out", out, "--serve", "--port", "0")
    late = threading.Timer(400, process.kill)
    late.start()
    try:
        said = ""
        while "Open http" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert "Report: " in said
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
        link = said.split("Open ")[1].strip()
        opener.open(link, timeout=60).close()
        for path, words in (("", study.name), ("/rounds", '<th scope="row">2</th>'), ("/results", "Who took part")):
            with opener.open(f"{link.split('/enter')[0]}/studies/out{path}", timeout=60) as page:
                assert words in page.read().decode(), path
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        late.cancel()
    assert process.returncode == 0
    assert left() == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_in_a_round_ends_everything_and_the_next_run_continues(
    start, left, to_toml, make_sites, small_study, tmp_path, stop
):
    study = small_study(federation={"rounds": 500})
    root, out = make_sites(2), tmp_path / "out"
    (tmp_path / "study.toml").write_text(to_toml(study))
    arguments = ("run", tmp_path / "study.toml", "--sites", root, "--out", out)
    process = start(*arguments)
    events = out / "run" / "events.jsonl"
    end = time.monotonic() + 200
    while not (events.exists() and '"event": "round"' in events.read_text()):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(stop)
    output = finished(process, 60)
    assert process.returncode == 130
    assert "interrupted; what was complete is kept" in output
    assert "Traceback" not in output
    assert left() == []
    assert not (out / "results.json").exists()
    assert not list(out.rglob(".*"))
    for site in load_sites(root):
        Ledger(site.ledger_file).verify()
    short = small_study(name="short", federation={"rounds": 1})
    (tmp_path / "study.toml").write_text(to_toml(short))
    process = start(*arguments)
    output = finished(process)
    assert process.returncode == 0, output
    assert "unchanged since the last ingest" in output


def test_a_run_that_too_few_sites_join_fails_with_their_reasons_and_a_report(
    start, left, to_toml, make_sites, small_study, tmp_path
):
    study = small_study()
    root, out = make_sites(2, max_epsilon=1.0), tmp_path / "out"
    (tmp_path / "study.toml").write_text(to_toml(study))
    process = start("run", tmp_path / "study.toml", "--sites", root, "--out", out)
    output = finished(process)
    assert process.returncode == 8, output
    assert "policy-3-epsilon" in output
    results = read_results(out / "results.json")
    assert results.outcome == "failed"
    assert "policy-3-epsilon" in results.reason
    assert "policy-3-epsilon" in (out / "report.html").read_text()
    assert left() == []


@pytest.mark.parametrize("private", [True, False])
def test_real_ct_dealt_to_three_sites_runs_to_a_report(start, to_toml, small_study, tmp_path, real_data, private):
    source = real_data / "sts_ct"
    split(source, source / "labels.csv", tmp_path / "sites", sites=3)
    study = small_study(
        task={
            "classes": ["no tumour", "tumour"],
            "label_values": ["0", "1"],
            "label_column": "tumour",
            "label_level": "slice",
        },
        input={"windows": [{"low": -160, "high": 240}], "view": "axial", "spacing_mm": 4.0, "size": 64}
        | {"slice_spacing_mm": 0.0, "planes": 0},
        training={"views_per_patient": 4},
        **({} if private else {"privacy": {"unit": "off"}}),
    )
    (tmp_path / "study.toml").write_text(to_toml(study))
    out = tmp_path / "out"
    process = start("run", tmp_path / "study.toml", "--sites", tmp_path / "sites", "--out", out)
    output = finished(process)
    assert process.returncode == 0, output
    results = read_results(out / "results.json")
    assert results.privacy.on is private
    assert 0 < results.final.pooled.cases < 8
    assert (out / "report.html").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 20 MB, half a ResNet-18: the first checkpoint can't be written."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("can't mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    start, left, to_toml, make_sites, small_study, tmp_path, small_disk
):
    (tmp_path / "study.toml").write_text(to_toml(small_study()))
    out = small_disk / "out"
    process = start("run", tmp_path / "study.toml", "--sites", make_sites(2), "--out", out)
    output = finished(process)
    assert process.returncode == 9, output
    assert "no space left while writing" in output
    assert "Traceback" not in output
    assert not list(out.rglob("*.safetensors"))
    assert not list(out.rglob(".*"))
    assert read_results(out / "results.json").outcome == "failed"
    assert left() == []
