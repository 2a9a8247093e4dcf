"""Cohorts on the page: a scan is the ingest of the command line, and pictures are for people of the site."""

from __future__ import annotations

import threading

import pytest

from client.console import scan as scanning
from client.console.scan import Scan
from client.ingest.cohort import cohort_folder
from client.proposals import propose
from common.errors import DataError, RunError
from common.pki.signature import sign_study


@pytest.fixture
def data(page, write_sites, tmp_path):
    """CT of five patients where the site of ``page`` has its data; one file is no DICOM, of an odd name."""
    made = write_sites(tmp_path / "made", 1) / "site-1"
    (made / "dicom").rename(tmp_path / "dicom")
    (made / "labels.csv").rename(tmp_path / "labels.csv")
    (tmp_path / "dicom" / "Müller^Hans <script>.dcm").write_bytes(b"none")


def wait(page):
    thread = page.app.state.desk.scan._thread
    thread.join(120)
    assert not thread.is_alive()
    return page.app.state.desk.scan.progress


def test_a_scan_makes_the_cohort_and_its_report_is_shown_without_a_file_name(page, post, waiting, data):
    operator = page.browser("operator")
    assert "Nothing is ingested yet" in operator.get("/cohorts").text
    assert post(operator, "/cohorts/scan", {"study": waiting.digest}).status_code == 303
    progress = wait(page)
    assert (progress.state, progress.by, progress.done) == ("done", "the-operator", progress.total)
    assert cohort_folder(page.site, waiting).is_dir()
    assert page.log("scan-started") == [{"by": "the-operator", "study": waiting.digest}]
    listed = operator.get("/cohorts").text
    assert "5 patients, 5 series" in listed
    path = f"/cohorts/{waiting.cohort_digest[:16]}"
    shown = operator.get(path).text
    for words in ("no DICOM by its content", "Few patients of class", "Voxels by Hounsfield units", "bright"):
        assert words in shown
    assert "Müller" not in listed + shown
    pictures = operator.get(f"{path}/pictures")
    assert pictures.text.count('src="data:image/png;base64,') >= 4
    assert pictures.headers["cache-control"] == "no-store"
    assert page.log("page")[-1]["note"] == f"looked at pictures of cohort {waiting.cohort_digest[:16]}"
    assert f"{path}/pictures" in operator.get(path).text
    stranger = page.browser().get(f"{path}/pictures")
    assert (stranger.status_code, stranger.headers["location"]) == (303, "/login")


def test_a_viewer_starts_and_stops_no_scan(page, post, waiting):
    viewer = page.browser("viewer")
    assert post(viewer, "/cohorts/scan", {"study": waiting.digest}).status_code == 403
    assert post(viewer, "/cohorts/stop").status_code == 403
    assert page.app.state.desk.scan.progress.state == "none"
    assert "Start the scan" not in viewer.get("/cohorts").text


@pytest.mark.parametrize("study", ["0" * 64, "../" * 20, ""])
def test_a_scan_is_for_a_study_that_is_here(page, post, study):
    assert post(page.browser("operator"), "/cohorts/scan", {"study": study}).status_code in (404, 422)
    assert page.log("scan-started") == []


def test_a_scan_that_fails_says_why_and_what_to_do(page, post, waiting):
    operator = page.browser("operator")
    post(operator, "/cohorts/scan", {"study": waiting.digest})
    assert wait(page).state == "failed"
    shown = operator.get("/cohorts").text
    assert "does not exist" in shown
    assert "The former cohort is as it was." in shown


@pytest.mark.parametrize("name", ["..", "%2e%2e", "0" * 15, "site.toml", "0" * 16])
def test_an_address_can_t_name_another_folder(page, name):
    for path in (f"/cohorts/{name}", f"/cohorts/{name}/pictures"):
        assert page.browser("viewer").get(path).status_code in (303, 404, 422)


def test_a_damaged_cohort_is_named_and_breaks_no_page(page):
    (page.site.cohorts_dir / ("0" * 16)).mkdir(parents=True)
    viewer = page.browser("viewer")
    assert "is damaged" in viewer.get("/cohorts").text
    assert viewer.get(f"/cohorts/{'0' * 16}").status_code in (404, 409)


def test_an_altered_picture_of_a_sealed_cohort_is_not_shown(page, write_cohort, encrypting, small_study):
    from client.console.cohorts import _sheet
    from client.ingest.cohort import open_folder

    site, study = encrypting(page.site, True), small_study()
    folder = write_cohort(site, study)
    planes = bytearray((folder / "planes.npy.sealed").read_bytes())
    (folder / "planes.npy.sealed").write_bytes(bytes(byte ^ 1 for byte in planes))
    with pytest.raises(DataError, match="altered plane"):
        _sheet(open_folder(site, folder))


def test_a_second_scan_waits_and_a_stopped_one_leaves_nothing(page, small_study, monkeypatch, key):
    study, begun, go_on = small_study(), threading.Event(), threading.Event()
    propose(page.site, study, sign_study(study, key))

    def slow(_site, _study, progress):
        progress(0, 10)
        begun.set()
        assert go_on.wait(60)
        progress(1, 10)
        raise AssertionError("it went on")

    monkeypatch.setattr("client.ingest.ingest", slow)
    scan = Scan()
    scan.start(page.site, study, "somebody")
    assert begun.wait(60)
    with pytest.raises(RunError, match="is under way"):
        scan.start(page.site, study, "another")
    scan.stop()
    go_on.set()
    scan.stop(60)
    assert (scan.progress.state, scan.progress.done) == ("stopped", 0)


def test_an_unexpected_error_ends_the_scan_and_shows_nothing_of_a_patient(page, small_study, monkeypatch):
    def broken(_site, _study, _progress):
        raise ValueError("Müller^Hans")

    monkeypatch.setattr("client.ingest.ingest", broken)
    scan = Scan()
    scan.start(page.site, small_study(), "somebody")
    scan._thread.join(60)
    assert (scan.progress.state, "Müller" in str(scan.progress)) == ("failed", False)
    assert scanning.Progress().state == "none"
