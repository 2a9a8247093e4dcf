"""A site's reply exists for the coordinator's run when all of it has arrived, and not before.

Flower 1.41 hands out a reply as soon as its sender has announced it, and lets the run wait for its parts: up to two
hours, in which it can take no other site's reply and does not see that a round's time is over. One site with a slow
or broken upload would hold up all others. Here such a reply is not there yet, so whoever looks for it looks again
later, and a round ends when its time is over.

An upload of which no part arrives for ``SILENCE_SECONDS`` is dropped. Flower's three minutes would do that to a site
that needs longer for one part (5 MB), which would then be asked, and charged, a second time.
"""

from __future__ import annotations

from flwr.app import Message
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.date import now
from flwr.supercore.state.schema.corestate_models import ObjectPushSession, ObjectPushSessionRoot
from flwr.supercore.state.schema.linkstate_models import MessageRes
from sqlalchemy import select

SILENCE_SECONDS = 1800


def hold_back_what_has_not_arrived() -> None:
    """Let Flower's factory make ``WholeReplies`` from now on in this process."""
    setattr(linkstate_factory, "SqlLinkState", WholeReplies)  # noqa: B010 - Flower has no setting for either
    setattr(sql_corestate, "OBJECT_PUSH_SESSION_TTL_SECONDS", SILENCE_SECONDS)  # noqa: B010


class WholeReplies(SqlLinkState):
    """Flower's state of a SuperLink, without replies that are still arriving."""

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """The replies to these messages that are whole; each is given once."""
        return super().get_message_res(message_ids - self._arriving(message_ids), run_id)

    def _arriving(self, message_ids: set[str]) -> set[str]:
        """Of these messages, those whose reply was announced and is still being sent."""
        reply, root, upload = MessageRes, ObjectPushSessionRoot, ObjectPushSession
        with self.session() as session:
            found = session.scalars(
                select(reply.reply_to_message_id)
                .join(root, root.root_object_id == reply.message_id)
                .join(upload, upload.session_id == root.session_id)
                .where(reply.reply_to_message_id.in_(message_ids), upload.pending_count > 0, upload.expires_at > now())
            )
            return {name for name in found if name}
