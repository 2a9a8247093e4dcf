"""Keys: written, read strictly, and compared."""

from __future__ import annotations

import base64
import re

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes, uses_nist_ec_curve
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError, UsageError
from common.pki import keys

PASSPHRASE = "correct horse battery"
NODE = keys.new_p384_key()
PUBLIC = keys.node_public(NODE)
COMPRESSED = PUBLIC[:20] + base64.b64encode(base64.b64decode(PUBLIC[20:]).replace(b"\0a\x04", b"\0a\x02", 1)).decode()
OTHERS = [
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
    ed25519.Ed25519PrivateKey.generate(),
]


def openssh(key) -> str:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def test_every_kind_of_key_is_read_back():
    study, authority = keys.new_study_key(), keys.new_p384_key()
    assert keys.study_public(keys.read_study_key(keys.study_key_bytes(study))) == keys.study_public(study)
    assert keys.read_study_public(keys.study_public(study)) == study.public_key()
    locked = keys.read_locked_key(keys.locked_key_bytes(authority, PASSPHRASE), PASSPHRASE)
    assert locked.private_numbers() == authority.private_numbers()
    assert keys.read_node_key(keys.node_key_bytes(NODE)).private_numbers() == NODE.private_numbers()
    assert keys.read_node_public(PUBLIC) == NODE.public_key()


def test_a_node_key_is_what_flowers_node_authentication_reads():
    private = serialization.load_ssh_private_key(keys.node_key_bytes(NODE), None)
    assert uses_nist_ec_curve(private.public_key())
    pem = keys.node_public_pem(PUBLIC)
    assert pem == public_key_to_bytes(private.public_key())
    assert bytes_to_public_key(pem) == NODE.public_key()


def test_the_authoritys_key_is_not_to_be_had_without_its_passphrase():
    locked = keys.locked_key_bytes(NODE, PASSPHRASE)
    assert b"ENCRYPTED" in locked
    for wrong in ("", PASSPHRASE + " ", PASSPHRASE.upper()):
        with pytest.raises(TrustError, match="can't be opened"):
            keys.read_locked_key(locked, wrong)
    with pytest.raises(TrustError):
        keys.read_locked_key(keys.plain_key_bytes(NODE), PASSPHRASE)


def test_a_short_passphrase_is_refused_by_its_length_and_not_shown():
    with pytest.raises(UsageError, match="11 characters; expected 12") as caught:
        keys.locked_key_bytes(NODE, "hunter2hunt")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", OTHERS, ids=["P-256", "RSA", "Ed25519"])
def test_another_kind_of_key_is_no_node_key(key):
    with pytest.raises(TrustError):
        keys.read_node_public(openssh(key))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    with pytest.raises(TrustError):
        keys.read_node_key(private)


@pytest.mark.parametrize(
    "text",
    [
        "",
        PUBLIC + " comment",
        PUBLIC + "\n",
        " " + PUBLIC,
        PUBLIC + "\n" + PUBLIC,
        PUBLIC[:-8],
        PUBLIC.upper(),
        "A" * 500,
        PUBLIC.replace("nistp384", "nistp521"),
        "restrict " + PUBLIC,
        COMPRESSED,
    ],
)
def test_a_node_key_in_any_other_spelling_is_refused(text):
    with pytest.raises(TrustError):
        keys.read_node_public(text)


@given(position=st.integers(0, len(PUBLIC) - 1), letter=st.characters(max_codepoint=0x17F))
def test_a_node_key_changed_in_one_letter_is_refused_or_another_key(position, letter):
    changed = PUBLIC[:position] + letter + PUBLIC[position + 1 :]
    try:
        read = keys.read_node_public(changed)
    except TrustError:
        return
    assert keys.node_public(read) == changed


@given(content=st.binary(max_size=300))
def test_no_bytes_make_a_reader_of_keys_fail_otherwise(content):
    for read in (keys.read_study_key, keys.read_node_key, lambda c: keys.read_locked_key(c, PASSPHRASE)):
        with pytest.raises(TrustError):
            read(content)
    with pytest.raises(TrustError):
        keys.read_study_public(content.hex()[:62])


def test_a_fingerprint_is_eight_groups_of_four_and_changes_with_every_bit():
    first = keys.fingerprint(b"\x00")
    assert re.fullmatch(r"([0-9a-f]{4} ){7}[0-9a-f]{4}", first)
    assert first != keys.fingerprint(b"\x01")
    assert first.replace(" ", "") == "6e340b9cffb37a989ca544e6bb780a2c"  # SHA-256 of one zero byte
