"""The invitation: what it holds, and that nothing in it can be changed."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError
from common.pki import certificates, keys
from common.pki.address import parse_address
from common.pki.documents import signed_bytes, write_document
from common.pki.invitation import DAYS, KIND, make_invitation, open_invitation, read_time, sign_invitation, write_time

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEY = keys.new_study_key()
AUTHORITY = certificates.certificate_text(certificates.make_authority("C", keys.new_p384_key(), NOW))


def invite(**changes):
    values = {"coordinator": "C", "address": "fedct.example.org:8443", "authority": AUTHORITY, "study_key": KEY}
    values |= {"site": "st-anna", "title": "St. Anna", "now": NOW, "random": secrets.token_bytes}
    return make_invitation(**values | changes)


INVITATION = invite()
TEXT = sign_invitation(INVITATION, KEY)


def signed_with(key=KEY, **changes) -> bytes:
    """The invitation with other values, rightly signed."""
    body = INVITATION.model_dump(mode="json") | changes
    return write_document(KIND, body, key.sign(signed_bytes(KIND, body))).encode()


def test_an_invitation_is_read_back_with_the_same_fingerprint_and_digest():
    opened = open_invitation(TEXT.encode(), NOW)
    assert opened == INVITATION
    assert opened.fingerprint == INVITATION.fingerprint
    assert opened.digest == INVITATION.digest
    assert opened.token not in (opened.digest, opened.fingerprint)


def test_every_invitation_has_its_own_token_and_the_coordinators_one_fingerprint():
    tokens = {invite().token for _ in range(20)}
    assert len(tokens) == 20
    assert invite().fingerprint == INVITATION.fingerprint


@pytest.mark.parametrize("part", ["authority", "study_key"])
def test_a_coordinator_with_one_other_key_has_another_fingerprint(part):
    other = certificates.certificate_text(certificates.make_authority("C", keys.new_p384_key(), NOW))
    changes = {"authority": other} if part == "authority" else {"study_key": keys.new_study_key()}
    assert invite(**changes).fingerprint != INVITATION.fingerprint


def test_it_can_be_used_until_it_expires_and_not_at_that_second():
    end = NOW + timedelta(days=DAYS)
    open_invitation(TEXT.encode(), end - timedelta(seconds=1))
    with pytest.raises(TrustError, match="expired at 2026-03-15T12:00:00Z"):
        open_invitation(TEXT.encode(), end)


@given(data=st.data())
def test_any_changed_value_is_noticed(data):
    document = json.loads(TEXT)
    key = data.draw(st.sampled_from(sorted(document["body"])))
    value = document["body"][key]
    changed = data.draw(
        st.integers(2, 9)
        if isinstance(value, int)
        else st.tuples(st.integers(0, len(value) - 1), st.sampled_from("0123456789abcdef-.:Z ")).map(
            lambda found: value[: found[0]] + found[1] + value[found[0] + 1 :]
        )
    )
    if changed == value:
        return
    document["body"][key] = changed
    with pytest.raises(TrustError):
        open_invitation(json.dumps(document).encode(), NOW)


@given(position=st.integers(0, len(TEXT) - 1), letter=st.characters(max_codepoint=127))
def test_any_letter_of_the_file_changed_is_noticed_or_means_nothing(position, letter):
    changed = TEXT[:position] + letter + TEXT[position + 1 :]
    try:
        opened = open_invitation(changed.encode(), NOW)
    except TrustError:
        return
    assert opened == INVITATION


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": 2}, id="another version"),
        pytest.param({"extra": 1}, id="an unknown key"),
        pytest.param({"title": "St. Anna\x1b[2J"}, id="a title that a terminal would obey"),
        pytest.param({"coordinator": "C\u202e"}, id="a name that is shown backwards"),
        pytest.param({"title": ""}, id="no title"),
        pytest.param({"site": "../st-anna"}, id="a site name that is a path"),
        pytest.param({"site": "St Anna"}, id="a site name with spaces"),
        pytest.param({"address": "fedct.example.org"}, id="no port"),
        pytest.param({"address": "FEDCT.example.org:1"}, id="an address in capitals"),
        pytest.param({"token": "00"}, id="a short token"),
        pytest.param({"expires": "2026-03-15"}, id="a day without a time"),
        pytest.param({"expires": "2026-02-30T12:00:00Z"}, id="a day that does not exist"),
        pytest.param({"authority": "no certificate"}, id="no certificate"),
        pytest.param({"authority": AUTHORITY + AUTHORITY}, id="two authorities"),
        pytest.param({"version": "1"}, id="a number as text"),
    ],
)
def test_a_bad_value_is_refused_though_it_is_rightly_signed(changes):
    with pytest.raises(TrustError):
        open_invitation(signed_with(**changes), NOW)


def test_a_signature_of_another_key_than_the_one_in_it_does_not_count():
    with pytest.raises(TrustError, match="was altered"):
        open_invitation(signed_with(keys.new_study_key()), NOW)


def test_a_server_in_place_of_the_authority_is_refused():
    key, server = keys.new_p384_key(), keys.new_p384_key()
    root = certificates.make_authority("C", key, NOW)
    leaf = certificates.make_server(root, key, server.public_key(), parse_address("h.example:1"), NOW)
    with pytest.raises(TrustError, match="root"):
        open_invitation(signed_with(authority=certificates.certificate_text(leaf)), NOW)


@given(seconds=st.integers(0, 2**33))
def test_a_time_is_read_back_to_the_second(seconds):
    moment = datetime.fromtimestamp(seconds, UTC)
    assert read_time(write_time(moment + timedelta(microseconds=999_999))) == moment
