"""Which requests of hospitals are admitted: signed by a node that is registered, and speaking for itself.

Both rules stand before Flower's own (``flwr.superlink.routers.fleet.node_auth``), which look at the request only
once its body is read, and take a pushed message's word for who sent it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # flwr's own dependency

KeyLookup = Callable[[bytes], int | None]


def signed_by(node_of: KeyLookup, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Callable[..., bool]:
    """A check of a request's headers (lower-case names).

    It says yes to a signature over an ISO 8601 time, at most 5 s ahead of ``now`` and 305 s behind, by a key for
    which ``node_of`` knows a node; no to anything else.
    """

    def admits(headers: Mapping[str, str]) -> bool:
        try:
            key = base64.b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
            signature = base64.b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
            stamp = headers[TIMESTAMP_HEADER]
            age = (now() - datetime.fromisoformat(stamp)).total_seconds()
            if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
                return False
            if node_of(key) is None:
                return False
            return bool(verify_signature(bytes_to_public_key(key), stamp.encode("ascii"), signature))
        except (KeyError, ValueError, TypeError, binascii.Error):
            return False

    return admits


def replies_for_itself(body: bytes) -> bool:
    """Whether a pushed message answers one, and names the node that pushes it as its sender.

    Flower stores a message without ``reply_to_message_id`` as an instruction of the coordinator's for whichever
    node it names, and does not compare a reply's sender with who pushed it. That the node is the key's, Flower checks.
    """
    try:
        request = PushMessagesRequest.FromString(body)
    except DecodeError:
        return False
    node = request.node.node_id
    return all(
        message.metadata.reply_to_message_id != "" and message.metadata.src_node_id == node
        for message in request.messages_list
    )
