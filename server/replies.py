"""What a reply must be before it counts: the checks of one answer to one question.

1. it parses, with no key beside the schema's;
2. it comes from the site whose node was asked, or is the refusal of a site that can't read its own name;
3. it is about this study and this round;
4. it holds counts of the study's size, or none;
5. its update is of the length and type that was asked for, finite, and no longer than the study's ``update_norm``.
"""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message

from common import messages
from common.messages import Reply
from common.study import Study
from common.wire import Vector, Wire, unpack
from server.arrays import view

NAMELESS = "unknown"  # what a site calls itself whose folder can't be opened


def config_of(message: Message) -> dict[str, Any]:
    """The flat mapping of a message. KeyError or TypeError when it has none."""
    record = message.content[messages.CONFIG]
    if not isinstance(record, ConfigRecord):
        raise TypeError("not a ConfigRecord")
    return dict(record)


def update_of(message: Message, exponent: int, wire: Wire, length: int) -> tuple[Vector, int]:
    """The update, taken out of its message so that it is in memory once (``server.arrays``), and its bytes on the wire.

    KeyError, TypeError or ValueError when it is not there, or not what ``wire`` and ``length`` say.
    """
    record = message.content[messages.UPDATE]
    if not isinstance(record, ArrayRecord):
        raise TypeError("not an ArrayRecord")
    array = view(record.pop(messages.ARRAY))
    return unpack(array, exponent, wire, length), array.nbytes


def what_is_wrong(reply: Reply, site: str, study: Study, round_: int) -> str:
    """The code of the first of checks 2 and 3 that fails, or ""."""
    if reply.site != site and not (reply.site == NAMELESS and reply.status != "ok"):
        return "wrong-site"
    if (reply.study_digest, reply.round) != (study.digest, round_):
        return "wrong-reply"
    return ""
