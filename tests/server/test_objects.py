"""Contents of messages as files: what Flower's own store promises, and what a hospital may try."""

from __future__ import annotations

import hashlib

import pytest
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
from flwr.supercore.object_store.sql_object_store import SqlObjectStore

from server.objects import FOLDER, FileObjectStore, keep_objects_in_files

RUN = 1
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations


def of(body: bytes, *children: str) -> tuple[str, bytes]:
    """An object of Flower's with this body, by its name."""
    kind = "ArrayRecord" if children else "ArrayChunk"
    content = f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body
    return hashlib.sha256(content).hexdigest(), content


CHUNK, OTHER = of(b"weights"), of(b"more")
FRAME = of(b"{}", CHUNK[0], OTHER[0])
TREE = ObjectTree(object_id=FRAME[0], children=[ObjectTree(object_id=CHUNK[0]), ObjectTree(object_id=OTHER[0])])


@pytest.fixture
def opened(tmp_path):
    """Open the store, as often as asked for."""

    def make() -> FileObjectStore:
        store = FileObjectStore(str(tmp_path / "superlink.db"))
        store.initialize()
        return store

    return make


@pytest.fixture
def store(opened):
    """A store with one whole message."""
    store = opened()
    assert set(store.preregister(RUN, TREE)) == {FRAME[0], CHUNK[0], OTHER[0]}
    for name, content in (FRAME, CHUNK, OTHER):
        assert store.get(name) == b""
        store.put(name, content)
    return store


@pytest.fixture
def files(tmp_path):
    return lambda: {path.name for path in (tmp_path / FOLDER).iterdir()}


def test_what_was_put_is_got_and_lies_in_files_alone(store, tmp_path):
    for name, content in (FRAME, CHUNK, OTHER):
        assert store.get(name) == content
        assert (tmp_path / FOLDER / name).read_bytes() == content
    assert (tmp_path / FOLDER).stat().st_mode & 0o777 == 0o700
    assert b"weights" not in b"".join(path.read_bytes() for path in tmp_path.glob("superlink.db*"))


def test_an_object_that_is_not_announced_or_is_another_is_refused(store, files):
    name, content = of(b"stranger")
    with pytest.raises(NoObjectInStoreError):
        store.put(name, content)
    with pytest.raises(ValueError, match="does not match"):
        store.put(CHUNK[0], content)
    assert store.get(name) is None
    assert name not in files()


def test_a_message_goes_with_its_files_but_what_another_holds_stays(store, files):
    frame = of(b"{ }", CHUNK[0])
    store.preregister(RUN, ObjectTree(object_id=frame[0], children=[ObjectTree(object_id=CHUNK[0])]))
    store.put(*frame)
    store.delete(FRAME[0])
    assert files() == {frame[0], CHUNK[0]}
    store.delete_objects_in_run(RUN)
    assert files() == set()


def test_a_store_that_is_opened_again_has_what_was_whole_and_drops_what_nobody_knows(store, opened, tmp_path, files):
    (tmp_path / FOLDER / ("0" * 64)).write_bytes(b"left by a killed process")
    again = opened()
    assert again.get(CHUNK[0]) == CHUNK[1]
    assert files() == {FRAME[0], CHUNK[0], OTHER[0]}


@pytest.mark.parametrize("damage", ["cut", "altered", "gone"])
def test_a_file_that_a_power_cut_damaged_is_never_given_out(store, opened, tmp_path, damage):
    path = tmp_path / FOLDER / CHUNK[0]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(CHUNK[1][:-1] if damage == "cut" else CHUNK[1].replace(b"w", b"v"))
    assert opened().get(CHUNK[0]) is None


@pytest.mark.parametrize("name", ["../superlink.db", "/etc/hostname", "", ".", "A" * 64])
def test_a_hospital_that_confirms_a_message_of_another_name_removes_no_file(store, tmp_path, name):
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    store.delete(name)
    assert store.get(name) is None
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_flowers_factory_makes_this_store(tmp_path, monkeypatch):
    monkeypatch.setattr(object_store_factory, "SqlObjectStore", SqlObjectStore)  # put back afterwards
    keep_objects_in_files()
    assert isinstance(ObjectStoreFactory(str(tmp_path / "superlink.db")).store(), FileObjectStore)
