"""The request: both proofs, and that neither can be had without what it proves."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError
from common.pki import certificates, keys
from common.pki.documents import signed_bytes, write_document
from common.pki.invitation import make_invitation, token_digest
from common.pki.request import KIND, make_request, node_fingerprint, open_request

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NODE = keys.new_p384_key()


def invite():
    authority = certificates.certificate_text(certificates.make_authority("C", keys.new_p384_key(), NOW))
    return make_invitation(
        coordinator="C",
        address="h.example:1",
        authority=authority,
        study_key=keys.new_study_key(),
        site="st-anna",
        title="St. Anna",
        now=NOW,
        random=secrets.token_bytes,
    )


INVITATION = invite()
TEXT = make_request(INVITATION, NODE)


def resigned(key=NODE, **changes) -> bytes:
    body = json.loads(TEXT)["body"] | changes
    return write_document(KIND, body, key.sign(signed_bytes(KIND, body), ec.ECDSA(hashes.SHA384()))).encode()


def test_a_request_names_its_site_invitation_and_key():
    request = open_request(TEXT.encode())
    assert (request.site, request.invitation) == ("st-anna", INVITATION.digest)
    assert request.fingerprint == node_fingerprint(keys.node_public(NODE))
    assert request.holds(token_digest(INVITATION.token))


def test_neither_the_token_nor_the_private_key_travels():
    assert INVITATION.token not in TEXT
    assert token_digest(INVITATION.token) not in TEXT
    assert keys.node_key_bytes(NODE).split(b"\n")[2] not in TEXT.encode()


def test_a_request_that_was_read_on_its_way_can_not_be_used_with_another_key():
    thief = keys.new_p384_key()
    request = open_request(resigned(thief, node_key=keys.node_public(thief)))
    assert not request.holds(token_digest(INVITATION.token))


@pytest.mark.parametrize(
    "changes",
    [{"site": "st-berta"}, {"invitation": "0" * 64}, {"proof": "0" * 64}],
    ids=["site", "invitation", "proof"],
)
def test_the_proof_is_for_one_site_and_one_invitation(changes):
    assert not open_request(resigned(**changes)).holds(token_digest(INVITATION.token))


def test_nobody_hands_in_the_key_of_another():
    victim = keys.node_public(keys.new_p384_key())
    with pytest.raises(TrustError, match="not signed by the node key that it names"):
        open_request(resigned(NODE, node_key=victim))


@given(position=st.integers(0, len(TEXT) - 1), letter=st.characters(max_codepoint=127))
def test_any_letter_of_the_file_changed_is_noticed_or_means_nothing(position, letter):
    try:
        request = open_request((TEXT[:position] + letter + TEXT[position + 1 :]).encode())
    except TrustError:
        return
    assert request == open_request(TEXT.encode())


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"site": "St Anna"}, {"invitation": "x"}, {"node_key": "x"}, {"node_key": "A" * 500}, {"more": 1}],
    ids=str,
)
def test_a_bad_value_is_refused_though_it_is_rightly_signed(changes):
    with pytest.raises(TrustError):
        open_request(resigned(**changes))
