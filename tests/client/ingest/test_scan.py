from __future__ import annotations

import dataclasses
import os
import shutil
import zipfile

import numpy as np
import pytest

from client.ingest import headers
from client.ingest import pool as pool_module
from client.ingest import scan as scan_module
from client.ingest.headers import read_source
from client.ingest.index import ScanIndex
from client.ingest.pool import Workers, start_workers
from client.ingest.records import Header, Reason, Skip
from client.ingest.scan import Changes, Scanned, fingerprint, scan, walk
from client.keys import SiteKey

KEY = SiteKey.from_secret(bytes(range(32)))
ALONE = Workers(1)


def no_progress(done: int, total: int) -> None:
    assert done <= total


@pytest.fixture
def rescan(tmp_path):
    """Scan ``tmp_path / "dicom"`` with the index beside it."""

    def run(progress=no_progress, pool: Workers = ALONE) -> Scanned:
        root = tmp_path / "dicom"
        entries, skips = walk(root)
        assert not skips
        with ScanIndex(tmp_path / "scan.sqlite", KEY, root) as index:
            return scan(root, entries, index, pool, progress)

    return run


@pytest.fixture
def reads(monkeypatch):
    """The sources that were read, not taken from the index."""
    seen: list[str] = []
    original = scan_module.read_sources
    monkeypatch.setattr(
        scan_module, "read_sources", lambda root, sources: seen.extend(sources) or original(root, sources)
    )
    return seen


def archive_of(folder, name: str, copies: int = 1, **others: bytes) -> None:
    """The files of ``folder``, ``copies`` times, as an archive in their place."""
    with zipfile.ZipFile(folder.parent / name, "w", zipfile.ZIP_DEFLATED) as archive:
        for copy in range(copies):
            for path in sorted(folder.iterdir()):
                archive.writestr(f"{copy}/{path.name}", path.read_bytes())
        for other, content in others.items():
            archive.writestr(other, content)
    shutil.rmtree(folder)


def test_link_loops_pipes_and_dead_links_do_not_hang_the_walk(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x").write_bytes(b"x")
    (tmp_path / "deep" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "twin").symlink_to(tmp_path / "deep", target_is_directory=True)
    (tmp_path / "dead").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    os.mkfifo(tmp_path / "pipe")
    entries, skips = walk(tmp_path)
    assert len(entries) == 1
    assert skips == [Skip(name, Reason.NOT_A_FILE) for name in ("dead", "pipe", "self")]


def test_the_fingerprint_follows_every_change_of_the_tree(tmp_path):
    def now() -> str:
        return fingerprint(walk(tmp_path)[0], b"labels")

    (tmp_path / "a").write_bytes(b"1")
    seen = {now()}
    assert now() in seen
    (tmp_path / "b").write_bytes(b"1")
    seen.add(now())
    (tmp_path / "b").rename(tmp_path / "c")
    seen.add(now())
    (tmp_path / "c").write_bytes(b"12")
    seen.add(now())
    os.utime(tmp_path / "a", ns=(0, 1))
    seen.add(now())
    seen.add(fingerprint(walk(tmp_path)[0], b"other labels"))
    assert len(seen) == 6


def test_every_file_is_in_one_list_and_a_second_scan_reads_none(tmp_path, write_series, rescan, reads):
    root = tmp_path / "dicom"
    write_series(root / "ct", np.zeros((100, 8, 8)))
    write_series(root / "seg", np.zeros((1, 8, 8)), SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    (root / "notes.txt").write_text("no DICOM")
    first = rescan()
    assert (len(first.headers), len(first.annotations), len(first.skips), first.files) == (100, 1, 1, 102)
    assert first.changes == Changes(new=102)
    assert len(reads) == 102
    reads.clear()
    second = rescan()
    assert reads == []
    assert second == dataclasses.replace(first, changes=Changes(unchanged=102))
    assert [header.path for header in first.headers] == sorted(header.path for header in first.headers)


def test_changed_added_and_removed_files_are_noticed_and_only_they_are_read(tmp_path, write_series, rescan, reads):
    root = tmp_path / "dicom"
    write_series(root, np.zeros((10, 8, 8)))
    rescan()
    reads.clear()
    files = sorted(path.name for path in root.iterdir())
    (root / files[0]).unlink()
    (root / files[1]).write_bytes(b"overwritten")
    os.utime(root / files[2], ns=(5, 5))
    (root / "added").write_bytes((root / files[3]).read_bytes())
    found = rescan()
    assert found.changes == Changes(new=1, changed=2, removed=1, unchanged=7)
    assert sorted(reads) == ["00001-P1-0", "00002-P1-0", "added"] == sorted(["added", *files[1:3]])
    assert (len(found.headers), found.skips) == (9, [Skip(files[1], Reason.NOT_DICOM)])
    assert rescan().changes == Changes(unchanged=10)


def test_an_interrupted_scan_goes_on_where_it_was(tmp_path, write_series, rescan, reads):
    write_series(tmp_path / "dicom", np.zeros((200, 4, 4)))

    def interrupt(done: int, _total: int) -> None:
        if done >= 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rescan(interrupt)
    assert len(reads) == 128
    reads.clear()
    found = rescan()
    assert len(reads) == 72
    assert len(found.headers) == 200
    assert found.changes == Changes(new=72, unchanged=128)


def test_members_of_archives_are_rows_of_their_own(tmp_path, write_series, rescan, reads):
    root = tmp_path / "dicom"
    write_series(root / "p1", np.zeros((40, 4, 4)))
    archive_of(root / "p1", "export", copies=4, readme=b"no DICOM", empty=b"")
    write_series(root / "p2", np.zeros((3, 4, 4)), patient_id="P2")
    (root / "bad.zip").write_bytes(b"PK\x03\x04 damaged")
    totals = []
    first = rescan(lambda done, total: totals.append((done, total)))
    assert first.files == 1 + 162 + 3 + 1
    assert totals[-1] == (first.files, first.files)
    assert len(first.headers) == 163
    assert {skip.path: skip.reason for skip in first.skips} == {
        "bad.zip": Reason.BAD_ARCHIVE,
        "export": Reason.ARCHIVE,
        "export!/empty": Reason.NOT_DICOM,
        "export!/readme": Reason.NOT_DICOM,
    }
    assert first.changes == Changes(new=5)
    reads.clear()
    assert rescan() == dataclasses.replace(first, changes=Changes(unchanged=5))
    assert reads == []


def test_an_interrupted_scan_of_an_archive_goes_on_within_it(tmp_path, write_series, rescan, reads):
    write_series(tmp_path / "dicom" / "p", np.zeros((50, 4, 4)))
    archive_of(tmp_path / "dicom" / "p", "export", copies=4)

    def interrupt(done: int, _total: int) -> None:
        if done >= 129:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rescan(interrupt)
    reads.clear()
    found = rescan()
    assert len(reads) == 200 - 128
    assert (len(found.headers), found.files) == (200, 201)
    reads.clear()
    assert rescan().headers == found.headers
    assert reads == []


def test_an_archive_that_changed_is_read_anew_and_its_former_members_are_forgotten(tmp_path, write_series, rescan):
    root = tmp_path / "dicom"
    write_series(root / "p", np.zeros((100, 4, 4)))
    archive_of(root / "p", "export")
    rescan()
    write_series(root / "p", np.zeros((5, 4, 4)))
    archive_of(root / "p", "export")
    found = rescan()
    assert (len(found.headers), found.changes) == (5, Changes(changed=1))
    (root / "export").unlink()
    (root / "other").write_bytes(b"x")
    assert rescan().changes == Changes(new=1, removed=1)


def test_a_file_that_becomes_readable_is_read_though_it_did_not_change(tmp_path, write_series, rescan, monkeypatch):
    def refuse(_root, source):
        raise PermissionError(13, "Permission denied", source)

    write_series(tmp_path / "dicom", np.zeros((1, 4, 4)))
    monkeypatch.setattr(headers, "open_source", refuse)
    assert rescan().skips[0].reason == Reason.UNREADABLE
    monkeypatch.undo()
    assert len(rescan().headers) == 1


def test_what_hangs_on_the_machine_is_not_kept(tmp_path, write_series, rescan, monkeypatch):
    write_series(tmp_path / "dicom", np.zeros((1, 4, 4)))
    monkeypatch.setattr(headers, "is_supported", lambda _syntax: False)
    assert rescan().skips[0].reason == Reason.UNSUPPORTED_SYNTAX
    monkeypatch.undo()
    assert len(rescan().headers) == 1


@pytest.mark.slow
def test_processes_find_what_one_process_finds(tmp_path, write_series, rescan, monkeypatch):
    monkeypatch.setattr(pool_module, "_START_SECONDS", 0)
    root = tmp_path / "dicom"
    write_series(root / "p", np.zeros((150, 4, 4)))
    archive_of(root / "p", "export", copies=2)
    write_series(root / "q", np.zeros((150, 4, 4)), patient_id="Q")
    alone = rescan()
    (tmp_path / "scan.sqlite").unlink()
    with start_workers(2) as pool:
        assert rescan(pool=pool) == alone


def test_all_real_data_have_a_row_and_none_a_trace(real_data, tmp_path):
    entries, skips = walk(real_data)
    assert not skips
    with ScanIndex(tmp_path / "i", KEY, real_data) as index:
        found = scan(real_data, entries, index, ALONE, no_progress)
    sources = [one.path for one in (*found.headers, *found.annotations, *found.skips)]
    assert sorted(sources) == sorted(entry.path for entry in entries)
    assert found.files == len(entries)
    assert len([header for header in found.headers if header.path.startswith("sts_ct")]) == 401
    assert len([one for one in found.annotations if one.path.startswith("sts_ct")]) == 8
    assert Reason.BAD_HEADER not in {skip.reason for skip in found.skips}


@pytest.mark.slow
def test_a_hundred_thousand_headers_would_take_far_less_than_a_gigabyte(tmp_path, memory_peak):
    """A fifth of them, as a second scan loads them: each slice of its own path, UID and position."""
    entries = [scan_module.Entry(f"patient-{n // 1000:05d}/series/IM{n:08d}", 525_000, n) for n in range(20_000)]
    with ScanIndex(tmp_path / "i", KEY, tmp_path) as index:
        for start in range(0, len(entries), 1000):
            index.put(
                scan_module.Record(entry.path, entry.size, entry.mtime_ns, [[_header(entry.path, start + number)]])
                for number, entry in enumerate(entries[start : start + 1000])
            )
    with ScanIndex(tmp_path / "i", KEY, tmp_path) as index, memory_peak(40 * 2**20):
        found = scan(tmp_path, entries, index, ALONE, no_progress)
    assert len(found.headers) == 20_000
    assert found.changes == Changes(unchanged=20_000)


def _header(path: str, number: int) -> Header:
    series = number // 1000
    return Header(
        path=path,
        patient_id=f"patient {series}",
        study_uid=f"1.2.826.0.1.3680043.8.498.{10**30 + series}",
        series_uid=f"1.2.826.0.1.3680043.8.498.{10**31 + series}",
        sop_uid=f"1.2.826.0.1.3680043.8.498.{10**32 + number}",
        frame_of_reference=f"1.2.826.0.1.3680043.8.498.{10**33 + series}",
        position=(-250.123, -250.456, number % 1000 * 0.625),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        spacing=(0.703125, 0.703125),
        rows=512,
        columns=512,
        frame=0,
        original=True,
        primary=True,
        acquisition="1\\ORIGINAL\\PRIMARY\\AXIAL",
        thickness=0.625,
        kernel="STANDARD",
        vendor="GE MEDICAL SYSTEMS",
        syntax="1.2.840.10008.1.2.1",
    )


def test_read_source_is_what_the_scan_reads_with(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    assert read_source(tmp_path, "x") == [Skip("x", Reason.NOT_DICOM)]
