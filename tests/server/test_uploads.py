"""Replies that are still arriving, in Flower's own database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flwr.server.superlink.linkstate import linkstate_factory
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.server.superlink.linkstate.sql_linkstate import SqlLinkState
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.date import now
from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.state.schema.linkstate_models import MessageRes
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy import insert, text, update

from server.uploads import SILENCE_SECONDS, WholeReplies, hold_back_what_has_not_arrived
from tests.server.test_objects import CHUNK, FRAME, OTHER, TREE

RUN = 1
ASKED = {"question"}
pytestmark = pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning")  # Flower's migrations


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state with one question, whose reply ``FRAME`` is announced, and under its ``session`` is being sent."""
    monkeypatch.setattr(linkstate_factory, "SqlLinkState", SqlLinkState)  # put back afterwards
    monkeypatch.setattr(sql_corestate, "OBJECT_PUSH_SESSION_TTL_SECONDS", 180)
    hold_back_what_has_not_arrived()
    database = str(tmp_path / "superlink.db")
    made = LinkStateFactory(database, NoOpFederationManager(), ObjectStoreFactory(database)).state()
    assert isinstance(made, WholeReplies)
    with made.session() as session:
        session.execute(text("PRAGMA foreign_keys = OFF"))  # the run itself is of no matter
        session.execute(insert(MessageRes).values(message_id=FRAME[0], reply_to_message_id="question", delivered_at=""))
    with made.session() as session:
        session.execute(text("PRAGMA foreign_keys = ON"))
    return made


@pytest.fixture
def upload(state):
    session = state.start_session(RUN)
    assert set(state.preregister_object_tree(TREE, session)) == {FRAME[0], CHUNK[0], OTHER[0]}
    return session


@pytest.fixture
def given(monkeypatch, state):
    """Which replies Flower's own code is let look for."""
    asked = []
    monkeypatch.setattr(SqlLinkState, "get_message_res", lambda _, ids, run: asked.append((set(ids), run)) or [])

    def look() -> set[str]:
        assert state.get_message_res(set(ASKED), RUN) == []
        assert asked[-1][1] == RUN
        return asked[-1][0]

    return look


def test_a_reply_is_not_there_until_its_last_part_has_arrived(state, upload, given):
    for name, content in (FRAME, CHUNK, OTHER):
        assert given() == set()
        assert state.store_object(RUN, upload, name, content)
    assert given() == ASKED


def test_a_reply_of_which_all_parts_are_known_already_is_there_at_once(state, upload, given):
    for name, content in (FRAME, CHUNK, OTHER):
        assert state.store_object(RUN, upload, name, content)
    assert state.preregister_object_tree(TREE, state.start_session(RUN)) == []
    assert given() == ASKED


def test_an_upload_that_fell_silent_is_left_to_flower_which_drops_it(state, upload, given):
    assert given() == set()
    with state.session() as session:
        session.execute(update(ObjectPushSession).values(expires_at=now() - timedelta(seconds=1)))
    assert given() == ASKED
    assert state.get_object(RUN, CHUNK[0]) is None


def test_a_slow_part_keeps_its_upload_alive(state, upload):
    with state.session() as session:
        left = session.get(ObjectPushSession, upload).expires_at - now()
    assert timedelta(seconds=SILENCE_SECONDS - 60) < left <= timedelta(seconds=SILENCE_SECONDS)


def test_messages_that_nobody_announced_are_looked_for_as_before(given):
    assert given() == ASKED
