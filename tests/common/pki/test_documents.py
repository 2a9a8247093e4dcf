"""Signed documents: what the parser takes, and that it takes nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError
from common.pki.documents import MOST_BYTES, open_document, signed_bytes, write_document

KIND = "fedct-test"
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
BODIES = st.dictionaries(
    st.text(max_size=10),
    SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS),
    max_size=5,
)
GOOD = write_document(KIND, {"a": 1}, b"\x01")


@given(body=BODIES, signature=st.binary(max_size=80))
def test_a_document_is_read_back_with_what_its_signature_covers(body, signature):
    opened = open_document(write_document(KIND, body, signature).encode(), KIND)
    assert (opened.body, opened.signature) == (body, signature)
    assert opened.signed == signed_bytes(KIND, body)


@given(content=st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_document_or_refused(content):
    with pytest.raises(TrustError, match="this is not a fedct test"):
        open_document(content, KIND)


@given(left=BODIES, right=BODIES)
def test_two_bodies_have_the_same_signed_bytes_only_if_they_are_the_same(left, right):
    same = json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)
    assert (signed_bytes(KIND, left) == signed_bytes(KIND, right)) == same


def test_a_signature_for_one_kind_covers_other_bytes_than_for_another():
    assert signed_bytes("a", {"b": 1}) != signed_bytes("c", {"b": 1})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD.replace(KIND, "fedct-other"), id="another kind"),
        pytest.param(GOOD.replace('"a": 1', '"a": 1, "a": 2'), id="a key twice in the body"),
        pytest.param(GOOD.replace('"signature"', '"body": {}, "signature"'), id="two bodies"),
        pytest.param(GOOD.replace('"signature"', '"more": 1, "signature"'), id="a key too many"),
        pytest.param('{"kind": "fedct-test", "body": {}}', id="no signature"),
        pytest.param(GOOD.replace('"01"', '"0x"'), id="a signature that is not hex"),
        pytest.param(GOOD.replace('"01"', "1"), id="a signature that is a number"),
        pytest.param(GOOD.replace('"a": 1', '"a": NaN'), id="NaN"),
        pytest.param(GOOD.replace('"a": 1', '"a": 1.5'), id="a number that two readers may round differently"),
        pytest.param(GOOD.replace('"a": 1', '"a": ' + "9" * 5000), id="a number without end"),
        pytest.param(GOOD.replace('{\n    "a": 1\n  }', "[1]"), id="a body that is a list"),
        pytest.param("[" * 20_000, id="brackets without end"),
        pytest.param('{"body":' * 4000, id="objects without end"),
        pytest.param(GOOD + "x", id="something behind it"),
        pytest.param(GOOD + " " * MOST_BYTES, id="more bytes than a document has"),
        pytest.param("\ufeff" + GOOD, id="a byte order mark"),
        pytest.param("null", id="nothing"),
    ],
)
def test_what_is_not_exactly_a_document_is_refused(text):
    assert text != GOOD
    with pytest.raises(TrustError, match="this is not a fedct test"):
        open_document(text.encode(), KIND)
