"""Arrays put together without copies are Flower's arrays."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from server.arrays import spare_memory, view

MESSAGE = 24 << 20


@pytest.fixture
def spared(monkeypatch):
    monkeypatch.setattr(Array, "inflate", Array.inflate)  # put back afterwards
    spare_memory()


def contents_of(array):
    """The objects of a message's content as they are pulled, and the name of the whole."""
    content = RecordDict({"update": ArrayRecord({"flat": Array(array)})})
    return content.object_id, {name: bytes(found.deflate()) for name, found in get_all_nested_objects(content).items()}


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=3_000_000).astype(np.float32),
        np.zeros(4_000_000, np.float16),  # chunks that are alike have one name
        np.zeros(0, np.float32),
        np.arange(6.0).reshape(2, 3),
    ],
    ids=["several chunks", "equal chunks", "nothing", "a table"],
)
def test_what_was_sent_arrives(spared, array):
    name, contents = contents_of(array)
    record = inflate_object_from_contents(name, contents)["update"]
    found = view(record["flat"])
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert np.array_equal(record["flat"].numpy(), array)


def test_flower_itself_inflates_to_the_same(monkeypatch):
    """Canary: what we replace still takes and gives what ours does."""
    array = np.random.default_rng(1).normal(size=3_000_000).astype(np.float32)
    name, contents = contents_of(array)
    plain = inflate_object_from_contents(name, dict(contents))["update"]["flat"]
    monkeypatch.setattr(Array, "inflate", Array.inflate)
    spare_memory()
    ours = inflate_object_from_contents(name, dict(contents))["update"]["flat"]
    assert (ours.data, ours.dtype, ours.shape, ours.stype) == (plain.data, plain.dtype, plain.shape, plain.stype)


def test_a_message_is_in_memory_once_and_a_few_chunks(spared):
    tracemalloc.start()
    try:
        name, contents = contents_of(np.random.default_rng(2).normal(size=MESSAGE // 4).astype(np.float32))
        tracemalloc.reset_peak()
        inflate_object_from_contents(name, contents)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * MESSAGE  # Flower itself takes three
    finally:
        tracemalloc.stop()


def test_an_array_whose_chunks_are_not_those_it_names_is_refused(spared):
    _, contents = contents_of(np.random.default_rng(0).normal(size=3_000_000).astype(np.float32))
    (whole,) = [c for c in contents.values() if c.startswith(b"Array ")]
    with pytest.raises(ValueError, match="chunks"):
        Array.inflate(whole, {})


ODD = {
    "an object": np.array([None], dtype=object),
    "by column": np.asfortranarray(np.ones((3, 2))),
}


@pytest.mark.parametrize("name", ODD)
def test_an_array_that_numpy_would_not_take_as_it_lies_is_refused(name, tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, ODD[name], allow_pickle=True)
    data = (tmp_path / "a.npy").read_bytes()
    with pytest.raises(ValueError, match="array"):
        view(Array("float32", (1,), "numpy.ndarray", data))


@pytest.mark.parametrize("data", [b"", b"x" * 200, b"\x93NUMPY\x01\x00\xff\xff" + b"{" * 90])
def test_bytes_that_are_no_array_are_refused(data):
    with pytest.raises(ValueError, match=r".+"):
        view(Array("float32", (1,), "numpy.ndarray", data))


def test_an_array_shorter_than_its_header_says_is_refused():
    whole = Array(np.ones(100, np.float32))
    with pytest.raises(ValueError, match=r".+"):
        view(Array("float32", (100,), "numpy.ndarray", whole.data[:-4]))
