from __future__ import annotations

import dataclasses
import sqlite3
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.ingest import index as index_module
from client.ingest.index import Record, ScanIndex, Standing
from client.ingest.records import Annotation, Header, Pixels, Reason, Skip
from client.keys import SiteKey
from common.errors import StorageError

KEY = SiteKey.from_secret(bytes(range(32)))
HEADER = Header(
    path="planted/folder/PLANTED-FILE",
    patient_id="PLANTED-ID \udcff é",
    study_uid="1.2.840.99.1111",
    series_uid="1.2.840.99.2222",
    sop_uid="1.2.840.99.3333",
    frame_of_reference="1.2.840.99.4444",
    position=(0.1, -1e-7, 123.456),
    orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
    spacing=(0.703125, 1 / 3),
    rows=512,
    columns=512,
    frame=3,
    original=True,
    primary=False,
    acquisition="7\\ORIGINAL",
    thickness=1.25,
    kernel="PLANTED-KERNEL",
    vendor="PLANTED-VENDOR",
    syntax="1.2.840.10008.1.2.1",
    pixels=Pixels(1234, 525_522, 1_700_000_000_123_456_789, "<u2", 12, 11, 1.0, -1024.1, (-2000, -1000)),
)
BARE = dataclasses.replace(HEADER, path="bare", pixels=None)
FOUND = [
    HEADER,
    BARE,
    Annotation("planted/seg", "PLANTED-ID", "seg"),
    Skip("planted/x", Reason.NOT_CT, "MR Image Storage"),
]
MTIME = 1_700_000_000_123_456_789


def record(name: str = "a", **changes) -> Record:
    return dataclasses.replace(Record(name, 1000, MTIME, [FOUND]), **changes)


@pytest.fixture
def opened(tmp_path):
    """Open the index at ``tmp_path``."""

    def begin(key: SiteKey = KEY, root: str = "dicom") -> ScanIndex:
        return ScanIndex(tmp_path / "scan.sqlite", key, tmp_path / root)

    return begin


def test_what_was_put_is_found_after_it_was_closed(opened):
    with opened() as index:
        index.put([record(), record("b", found=[[], FOUND], parts=7)])
    with opened() as index:
        assert index.look_up("a", 1000, MTIME) == (Standing.UNCHANGED, record())
        assert index.look_up("b", 1000, MTIME) == (Standing.UNCHANGED, record("b", found=[[], FOUND], parts=7))
        assert index.look_up("c", 1000, MTIME) == (Standing.NEW, None)


def test_another_size_or_time_is_a_change(opened):
    with opened() as index:
        index.put([record()])
        assert index.look_up("a", 1001, MTIME) == (Standing.CHANGED, None)
        assert index.look_up("a", 1000, MTIME + 1) == (Standing.CHANGED, None)
        index.put([record(size=1001)])
        assert index.look_up("a", 1001, MTIME)[0] == Standing.UNCHANGED


@settings(max_examples=100, deadline=None)
@given(
    name=st.text(),
    patient=st.text(),
    floats=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
)
def test_every_value_comes_back_exactly(tmp_path_factory, name, patient, floats):
    folder = tmp_path_factory.mktemp("index")
    header = dataclasses.replace(HEADER, path=name, patient_id=patient, position=tuple(floats))
    with ScanIndex(folder / "i", KEY, folder) as index:
        index.put([record(name, found=[[header]])])
        assert index.look_up(name, 1000, MTIME)[1].found == [[header]]


def test_nothing_readable_is_in_the_file(opened, tmp_path):
    with opened() as index:
        index.put([record("planted/folder/PLANTED-FILE"), record("other")])
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert len(content) > 1000
    planted = ["planted", "PLANTED", "1.2.840", "1111", "123.456", "MR Image", "seg", "header", str(MTIME), "dicom"]
    for text in planted:
        for coded in (text.encode(), text.encode("utf-16-le"), text.encode().hex().encode()):
            assert coded not in content, text
    for number in (MTIME, MTIME // 10**9):
        for order in ("big", "little"):
            assert number.to_bytes(8, order).strip(b"\0") not in content


def test_the_file_can_be_read_by_its_owner_alone(opened, tmp_path):
    with opened() as index:
        index.put([record()])
    path = tmp_path / "scan.sqlite"
    assert [p.name for p in tmp_path.iterdir()] == ["scan.sqlite"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    opened().__exit__(None, None, None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_key_or_folder_or_version_begins_anew(opened, monkeypatch):
    def fill():
        with opened() as index:
            index.put([record()])
            assert index.look_up("a", 1000, MTIME)[0] == Standing.UNCHANGED

    fill()
    with opened(key=SiteKey.from_secret(bytes(32))) as index:
        assert index.look_up("a", 1000, MTIME) == (Standing.NEW, None)
        assert index.forget_unseen() == 0
    fill()
    with opened(root="elsewhere") as index:
        assert index.look_up("a", 1000, MTIME) == (Standing.NEW, None)
    fill()
    monkeypatch.setattr(index_module, "FORMAT", index_module.FORMAT + 1)
    with opened() as index:
        assert index.look_up("a", 1000, MTIME) == (Standing.NEW, None)


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, b"SQLite format 3\0" + bytes(4096)])
def test_a_file_that_is_no_index_is_begun_anew(opened, tmp_path, content):
    (tmp_path / "scan.sqlite").write_bytes(content)
    with opened() as index:
        assert index.look_up("a", 1000, MTIME) == (Standing.NEW, None)
        index.put([record()])
    with opened() as index:
        assert index.look_up("a", 1000, MTIME)[0] == Standing.UNCHANGED


def test_a_row_that_was_moved_or_altered_is_not_believed(opened, tmp_path):
    with opened() as index:
        index.put([record("a"), record("b", found=[[]])])
    database = sqlite3.connect(tmp_path / "scan.sqlite")
    rows = database.execute("SELECT key, content FROM found").fetchall()
    with database:
        database.execute("UPDATE found SET content = ? WHERE key = ?", (rows[1][1], rows[0][0]))
        flipped = bytes([rows[1][1][0] ^ 1]) + rows[1][1][1:]
        database.execute("UPDATE found SET content = ? WHERE key = ?", (flipped, rows[1][0]))
    database.close()
    with opened() as index:
        assert index.look_up("a", 1000, MTIME) == (Standing.NEW, None)
        assert index.look_up("b", 1000, MTIME) == (Standing.NEW, None)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_index_gives_what_was_put_or_nothing_and_goes_on(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("index")
    records = [record(f"name {number}", found=[[HEADER]]) for number in range(20)]
    with ScanIndex(folder / "i", KEY, folder) as index:
        index.put(records)
    content = bytearray((folder / "i").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=30)):
        content[place] = data.draw(st.integers(0, 255))
    (folder / "i").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with ScanIndex(folder / "i", KEY, folder) as index:
        for one in records:
            standing, found = index.look_up(one.name, one.size, one.mtime_ns)
            assert (standing, found) in ((Standing.UNCHANGED, one), (Standing.NEW, None))
        index.put(records)
        assert index.forget_unseen() == 0
    with ScanIndex(folder / "i", KEY, folder) as index:
        index.look_up("name 0", 1000, MTIME)


def test_what_was_not_seen_is_forgotten_and_files_of_it_counted(opened):
    with opened() as index:
        index.put([record("a"), record("b"), record("gone"), record("gone part", is_part=True)])
    with opened() as index:
        index.look_up("a", 1000, MTIME)
        index.put([record("b", size=5)])
        assert index.forget_unseen() == 1
    with opened() as index:
        assert index.look_up("gone", 1000, MTIME)[0] == Standing.NEW
        assert index.look_up("gone part", 1000, MTIME)[0] == Standing.NEW
        assert index.look_up("a", 1000, MTIME)[0] == Standing.UNCHANGED


def test_an_index_that_cant_be_written_at_all_is_one_clear_error(tmp_path):
    with pytest.raises(StorageError, match=r"scan index .* can't be written"):
        ScanIndex(tmp_path / "no such folder" / "i", KEY, tmp_path)
