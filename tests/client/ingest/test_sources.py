from __future__ import annotations

import io
import os
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import DeflatedExplicitVRLittleEndian

from client.ingest import sources
from client.ingest.headers import read_source
from client.ingest.records import Header, Reason, Skip
from client.ingest.sources import SourceError, archive_members, open_source

FLAT = np.zeros((1, 16, 12))
MIB = 2**20


def make_zip(path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def slice_bytes(tmp_path, write_series, **tags) -> bytes:
    write_series(tmp_path / "made", FLAT, **tags)
    (path,) = (tmp_path / "made").iterdir()
    content = path.read_bytes()
    path.unlink()
    (tmp_path / "made").rmdir()
    return content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_is_a_stream_that_can_seek(tmp_path, method):
    content = np.random.default_rng(0).bytes(300_000)
    make_zip(tmp_path / "export", {"a/b": content, "c": b"other"}, method)
    assert archive_members(tmp_path, "export") == [("export!/a/b", 300_000), ("export!/c", 5)]
    with open_source(tmp_path, "export!/a/b") as stream:
        assert stream.size == len(content)
        assert stream.seek(200_000) == 200_000
        assert stream.read(10) == content[200_000:200_010]
        assert stream.seek(5) == 5
        assert stream.read(70_000) == content[5:70_005]
        assert stream.seek(-3, os.SEEK_END) == len(content) - 3
        assert stream.read() == content[-3:]
        stream.seek(0)
        assert stream.read() == content


@settings(max_examples=60, deadline=None)
@given(moves=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 3000)), max_size=12))
def test_seeking_in_a_member_reads_what_seeking_in_the_bytes_reads(tmp_path_factory, moves):
    content = np.random.default_rng(1).bytes(4000)
    folder = tmp_path_factory.mktemp("seek")
    make_zip(folder / "z", {"m": content})
    plain = io.BytesIO(content)
    with open_source(folder, "z!/m") as stream:
        for place, size in moves:
            plain.seek(place)
            stream.seek(place)
            assert stream.read(size) == plain.read(size)


def test_slices_in_an_archive_are_read(tmp_path, write_series):
    content = slice_bytes(tmp_path, write_series)
    make_zip(tmp_path / "export.dat", {"p/1": content, "p/readme": b"hello", "p/": b""})
    assert read_source(tmp_path, "export.dat") == [Skip("export.dat", Reason.ARCHIVE)]
    (found,) = read_source(tmp_path, "export.dat!/p/1")
    assert isinstance(found, Header)
    assert found.path == "export.dat!/p/1"
    assert read_source(tmp_path, "export.dat!/p/readme")[0].reason == Reason.NOT_DICOM
    with open_source(tmp_path, found.path) as stream:
        assert (pydicom.dcmread(stream).pixel_array == 1024).all()


def test_an_empty_archive_is_an_archive(tmp_path):
    make_zip(tmp_path / "z", {})
    assert read_source(tmp_path, "z") == [Skip("z", Reason.ARCHIVE)]
    assert archive_members(tmp_path, "z") == []


def test_a_file_whose_path_looks_like_a_member_is_read_as_the_file_it_is(tmp_path, write_series):
    content = slice_bytes(tmp_path, write_series)
    (tmp_path / "odd!").mkdir()
    (tmp_path / "odd!" / "x").write_bytes(content)
    assert isinstance(read_source(tmp_path, "odd!/x")[0], Header)
    make_zip(tmp_path / "odd", {"x": b"not the file"})
    assert archive_members(tmp_path, "odd").reason == Reason.BAD_ARCHIVE
    assert read_source(tmp_path, "odd")[0].reason == Reason.BAD_ARCHIVE


def test_names_that_lead_elsewhere_or_are_used_twice_stay_apart_and_within(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        for name in ("../x", "/etc/hostname", "x", "x", "x!/2", "a!/b"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile warns of the name that is there twice
                archive.writestr(name, f"content of {name}")
    names = [source for source, _ in archive_members(tmp_path, "z")]
    assert len(names) == len(set(names)) == 6
    for source in names:
        with open_source(tmp_path, source) as stream:
            assert stream.read().startswith(b"content of ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["z"]


@pytest.mark.parametrize("content", [b"PK\x03\x04", b"PK\x03\x04" + bytes(500), b"PK\x05\x06" + b"\xff" * 18])
def test_a_damaged_archive_is_a_skip(tmp_path, content):
    (tmp_path / "z").write_bytes(content)
    assert archive_members(tmp_path, "z") == Skip("z", Reason.BAD_ARCHIVE, "damaged")
    assert read_source(tmp_path, "z") == [Skip("z", Reason.BAD_ARCHIVE, "damaged")]


def test_members_that_are_encrypted_damaged_or_archives_have_a_skip_of_their_own(tmp_path, write_series):
    content = slice_bytes(tmp_path, write_series)
    inner = io.BytesIO()
    make_zip(inner, {"x": content})
    make_zip(
        tmp_path / "z", {"good": content, "locked": content, "inner": inner.getvalue(), "odd": content, "cut": content}
    )
    packed = bytearray((tmp_path / "z").read_bytes())
    entries = {}
    place = packed.index(b"PK\x01\x02")
    while packed[place : place + 4] == b"PK\x01\x02":
        lengths = struct.unpack_from("<HHH", packed, place + 28)
        entries[bytes(packed[place + 46 : place + 46 + lengths[0]])] = place
        place += 46 + sum(lengths)
    packed[entries[b"locked"] + 8] |= 1
    struct.pack_into("<H", packed, entries[b"odd"] + 10, 14)  # LZMA
    cut = struct.unpack_from("<L", packed, entries[b"cut"] + 42)[0] + 33
    packed[cut : cut + 20] = b"\xff" * 20
    (tmp_path / "z").write_bytes(packed)
    found = {source: read_source(tmp_path, source)[0] for source, _ in archive_members(tmp_path, "z")}
    assert isinstance(found["z!/good"], Header)
    details = {source: (one.reason, one.detail) for source, one in found.items() if isinstance(one, Skip)}
    assert details == {
        "z!/locked": (Reason.BAD_ARCHIVE, "encrypted"),
        "z!/inner": (Reason.BAD_ARCHIVE, "an archive within an archive"),
        "z!/odd": (Reason.BAD_ARCHIVE, "compression method 14, not stored or deflated"),
        "z!/cut": (Reason.BAD_ARCHIVE, "damaged"),
    }


def test_a_zip_of_zeros_is_refused_without_unpacking_it(tmp_path, memory_peak):
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zeros", "w") as member:
        for _ in range(256):
            member.write(bytes(MIB))
    assert (tmp_path / "z").stat().st_size < MIB
    with memory_peak(2 * MIB):
        assert read_source(tmp_path, "z!/zeros") == [Skip("z!/zeros", Reason.NOT_DICOM)]


def test_a_slice_with_an_element_of_zeros_is_refused_within_the_limit_of_a_header(tmp_path, write_series, memory_peak):
    content = slice_bytes(tmp_path, write_series)
    place = content.index(b"\x10\x00\x20\x00")  # before the patient ID
    bomb = struct.pack("<HH2sHL", 0x0009, 0x1001, b"OB", 0, 300 * MIB)
    with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x", "w") as member:
        member.write(content[:place] + bomb)
        for _ in range(300):
            member.write(bytes(MIB))
        member.write(content[place:])
    with memory_peak(300 * MIB):
        assert read_source(tmp_path, "z!/x")[0].reason == Reason.TOO_LARGE


def test_a_member_that_declares_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAXIMUM_BYTES", 1000)
    make_zip(tmp_path / "z", {"x": bytes(128) + b"DICM" + bytes(1000), "y": bytes(100)})
    assert read_source(tmp_path, "z!/x") == [Skip("z!/x", Reason.TOO_LARGE, "1132 bytes declared")]
    assert read_source(tmp_path, "z!/y")[0].reason == Reason.NOT_DICOM


def test_a_member_is_never_more_than_it_declares(tmp_path):
    """The directory says 10 bytes, the content inflates to a million."""
    make_zip(tmp_path / "z", {"x": bytes(MIB)})
    packed = (tmp_path / "z").read_bytes()
    (tmp_path / "z").write_bytes(packed.replace(struct.pack("<L", MIB), struct.pack("<L", 10)))
    with pytest.raises(SourceError, match="damaged"), open_source(tmp_path, "z!/x") as stream:
        stream.read()


def test_members_that_overlap_are_refused(tmp_path):
    make_zip(tmp_path / "z", {"a": bytes(1000), "b": bytes(1000)}, zipfile.ZIP_STORED)
    packed = bytearray((tmp_path / "z").read_bytes())
    second = packed.rindex(b"PK\x01\x02")
    struct.pack_into("<L", packed, second + 42, 0)  # both entries name the first member's bytes
    (tmp_path / "z").write_bytes(packed)
    assert archive_members(tmp_path, "z") == Skip("z", Reason.TOO_LARGE, "members of the archive overlap")


def test_too_many_members_are_refused_before_they_take_memory(tmp_path, monkeypatch, memory_peak):
    make_zip(tmp_path / "z", {f"{number}": b"" for number in range(3000)})
    monkeypatch.setattr(sources, "MAXIMUM_MEMBERS", 2000)
    with memory_peak(MIB):
        assert archive_members(tmp_path, "z") == Skip("z", Reason.TOO_LARGE, "more than 2000 members")
    monkeypatch.setattr(sources, "MAXIMUM_DIRECTORY", 10_000)
    assert archive_members(tmp_path, "z") == Skip("z", Reason.TOO_LARGE, "the directory of the archive")


def test_the_directory_of_an_archive_is_parsed_once_for_all_members(tmp_path, monkeypatch):
    make_zip(tmp_path / "z", {f"{number}": b"x" for number in range(200)})
    opened = []
    original = zipfile.ZipFile
    monkeypatch.setattr(sources.zipfile, "ZipFile", lambda file: opened.append(1) or original(file))
    for source, _ in archive_members(tmp_path, "z"):
        read_source(tmp_path, source)
    assert len(opened) == 1


def test_an_archive_that_was_replaced_is_opened_anew_and_open_members_stay_readable(tmp_path):
    make_zip(tmp_path / "z", {"x": b"first"})
    make_zip(tmp_path / "other", {"x": b"another"})
    with open_source(tmp_path, "z!/x") as stream:
        with open_source(tmp_path, "other!/x") as other:
            assert other.read() == b"another"
        assert stream.read() == b"first"
    make_zip(tmp_path / "z", {"x": b"second one"})
    with open_source(tmp_path, "z!/x") as stream:
        assert stream.read() == b"second one"


def test_an_error_of_the_reader_is_not_taken_for_damage(tmp_path):
    make_zip(tmp_path / "z", {"x": b"first"})
    with pytest.raises(ValueError, match="mine"), open_source(tmp_path, "z!/x"):
        raise ValueError("mine")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_gives_skips_or_the_members_and_never_a_trace(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    make_zip(folder / "z", {"a": b"some content" * 10, "b": bytes(200)})
    content = bytearray((folder / "z").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    (folder / "z").write_bytes(content[: data.draw(st.integers(4, len(content)))])
    members = archive_members(folder, "z")
    for source, _ in members if isinstance(members, list) else []:
        assert isinstance(read_source(folder, source)[0], Skip)


def deflate(content: bytes, extra: bytes = b"") -> bytes:
    """An explicit little endian file as a deflated one, ``extra`` bytes after its data set."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, force_encoding=True, implicit_vr=False, little_endian=True)
    whole = buffer.getvalue()
    if not extra:
        return whole
    meta = whole.index(b"1.2.840.10008.1.2.1.99") + 22
    packer = zlib.compressobj(wbits=-15)
    plain = zlib.decompress(whole[meta:], -15) + extra
    return whole[:meta] + packer.compress(plain) + packer.flush()


@pytest.mark.parametrize("archived", [False, True])
def test_a_deflated_slice_reads_like_one_that_is_not(tmp_path, write_series, archived):
    content = slice_bytes(tmp_path, write_series)
    packed = deflate(content)
    assert b"1.2.840.10008.1.2.1.99" in packed
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "x").write_bytes(packed)
    make_zip(tmp_path / "z", {"x": packed})
    source = "z!/x" if archived else "x"
    (plain,), (found,) = read_source(tmp_path, "plain"), read_source(tmp_path, source)
    assert isinstance(found, Header)
    assert (found.sop_uid, found.position, found.syntax) == (plain.sop_uid, plain.position, plain.syntax)
    with open_source(tmp_path, source) as stream:
        assert (pydicom.dcmread(stream).pixel_array == 1024).all()


def test_a_deflated_bomb_takes_no_more_than_it_is_allowed(tmp_path, write_series, monkeypatch, memory_peak):
    bomb = struct.pack("<HH2sHL", 0x7FE1, 0x1001, b"OB", 0, 200 * MIB) + bytes(200 * MIB)
    (tmp_path / "x").write_bytes(deflate(slice_bytes(tmp_path, write_series), bomb))
    assert (tmp_path / "x").stat().st_size < MIB
    monkeypatch.setattr(sources, "MAXIMUM_INFLATED", 20 * MIB)
    with memory_peak(50 * MIB):
        assert isinstance(read_source(tmp_path, "x")[0], Header)  # the header comes long before the bomb
        with open_source(tmp_path, "x") as stream, pytest.raises(SourceError, match="too-large"):
            pydicom.dcmread(stream)


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_damaged_deflated_slice_is_a_skip(tmp_path, write_series, cut):
    content = deflate(slice_bytes(tmp_path, write_series))
    (tmp_path / "x").write_bytes(content[: int(len(content) * cut)])
    assert isinstance(read_source(tmp_path, "x")[0], Skip)


def test_meta_information_that_readers_take_differently_is_refused(tmp_path, write_series):
    """Implicit VR in group 0002, or a deflated syntax hidden far behind: pydicom would inflate without limit."""
    content = slice_bytes(tmp_path, write_series)
    implicit = struct.pack("<HHL", 2, 0x10, 22) + b"1.2.840.10008.1.2.1.99"
    far = struct.pack("<HH2sHL", 2, 1, b"OB", 0, 100_000) + bytes(100_000)
    for number, meta in enumerate((implicit, far + implicit)):
        (tmp_path / str(number)).write_bytes(content[:132] + meta + content[132:])
        assert read_source(tmp_path, str(number))[0].reason == Reason.BAD_HEADER
