from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from hypothesis import given
from hypothesis import strategies as st

from server.admission import replies_for_itself, signed_by

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())


def text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def headers(at=NOW, key=KEY, signer=None) -> dict[str, str]:
    stamp = at.isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: text(public_key_to_bytes(key.public_key())),
        FLEET_HTTP_SIGNATURE_HEADER: text(sign_message(signer or key, stamp.encode())),
        TIMESTAMP_HEADER: stamp,
    }


def admits(given_headers) -> bool:
    registered = {public_key_to_bytes(KEY.public_key()): 7}
    return signed_by(registered.get, lambda: NOW)(given_headers)


def test_a_fresh_signature_of_a_registered_node_is_admitted():
    assert admits(headers())


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param({}, id="no headers"),
        pytest.param(headers(key=OTHER), id="a key that is not registered"),
        pytest.param(headers(signer=OTHER), id="a registered key, signed by another"),
        pytest.param(headers(at=NOW - timedelta(seconds=306)), id="an old signature used again"),
        pytest.param(headers(at=NOW + timedelta(seconds=6)), id="a signature of the future"),
        pytest.param({**headers(), TIMESTAMP_HEADER: (NOW + timedelta(seconds=1)).isoformat()}, id="another time"),
        pytest.param({**headers(), TIMESTAMP_HEADER: "2026-03-01T12:00:00"}, id="a time without zone"),
        pytest.param({**headers(), TIMESTAMP_HEADER: "nan"}, id="no time"),
        pytest.param({**headers(), FLEET_HTTP_SIGNATURE_HEADER: "AA=="}, id="an empty signature"),
        pytest.param({**headers(), FLEET_HTTP_SIGNATURE_HEADER: "!"}, id="no base64"),
        pytest.param({**headers(), FLEET_HTTP_PUBLIC_KEY_HEADER: text(b"x")}, id="no key"),
    ],
)
@pytest.mark.failure(
    "a request under another key, altered, repeated later, or from a clock that is wrong",
    seen="401 in the SuperLink's log; the site is not connected",
    ends="goes on without it",
    ledgers="nothing",
)
def test_anything_else_is_not_admitted(attack):
    assert not admits(attack)


@given(st.dictionaries(st.sampled_from(sorted(headers())), st.text(max_size=80)))
def test_no_headers_make_the_check_fail_open_or_fall_over(given_headers):
    assert not admits(given_headers)


def push(reply_to: str, source: int, node: int = 7) -> bytes:
    metadata = Metadata(reply_to_message_id=reply_to, src_node_id=source, dst_node_id=1)
    return PushMessagesRequest(node=Node(node_id=node), messages_list=[Message(metadata=metadata)]).SerializeToString()


def test_a_reply_in_the_nodes_own_name_passes():
    assert replies_for_itself(push("m", 7))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(push("", 1), id="an instruction in the coordinator's name"),
        pytest.param(push("", 7), id="an instruction in its own name"),
        pytest.param(push("m", 8), id="a reply in another site's name"),
        pytest.param(b"\xff\xff", id="not a message"),
    ],
)
def test_a_push_in_anothers_name_does_not_pass(body):
    assert not replies_for_itself(body)
