"""The coordinator's signature under a study."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import TrustError
from common.pki.keys import new_study_key, study_public
from common.pki.signature import read_signature, sign_study, signature_file, verify_study

KEY = new_study_key()
PUBLIC = study_public(KEY)


@pytest.fixture(scope="module")
def study(small_study):
    return small_study()


def test_a_signed_study_is_verified_whatever_its_comments(study):
    verify_study(study, sign_study(study, KEY), PUBLIC)


def test_one_changed_value_breaks_the_signature(study, small_study):
    line = sign_study(study, KEY)
    for changed in (
        small_study(federation={"rounds": 3}),
        small_study(name="other"),
        small_study(privacy={"epsilon": 8.1}),
    ):
        with pytest.raises(TrustError, match="was changed after it was signed"):
            verify_study(changed, line, PUBLIC)
        forged = line.replace(study.digest, changed.digest)
        with pytest.raises(TrustError, match="not signed by the coordinator"):
            verify_study(changed, forged, PUBLIC)


def test_another_key_does_not_sign_for_the_coordinator(study):
    with pytest.raises(TrustError, match="not signed by the coordinator"):
        verify_study(study, sign_study(study, new_study_key()), PUBLIC)


def test_a_signature_over_the_bare_digest_does_not_count(study):
    bare = KEY.sign(bytes.fromhex(study.digest)).hex()
    with pytest.raises(TrustError, match="not signed by the coordinator"):
        verify_study(study, f"fedct-study-1 {study.digest} {bare}\n", PUBLIC)


def test_no_signature_is_none(study):
    with pytest.raises(TrustError, match="has no signature"):
        verify_study(study, "", PUBLIC)


@given(position=st.integers(0, 206), letter=st.characters())
def test_a_line_changed_in_one_letter_does_not_hold(study, position, letter):
    line = sign_study(study, KEY)
    assert len(line) == 208  # the last letter ends the line
    changed = line[:position] + letter + line[position + 1 :]
    if changed == line:
        return
    with pytest.raises(TrustError):
        verify_study(study, changed, PUBLIC)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "  \n\n"])
def test_a_mail_may_change_how_the_line_ends(study, end):
    verify_study(study, sign_study(study, KEY).rstrip("\n") + end, PUBLIC)


@given(text=st.text(max_size=300))
def test_any_other_text_does_not_hold(study, text):
    with pytest.raises(TrustError):
        verify_study(study, text, PUBLIC)


def test_a_signature_lies_beside_its_study(tmp_path, study):
    path = signature_file(tmp_path / "study.toml")
    assert path == tmp_path / "study.toml.sig"
    assert read_signature(path) == ""
    path.write_bytes(b"\xff" * 10_000)
    with pytest.raises(TrustError):
        verify_study(study, read_signature(path), PUBLIC)
    path.write_text(sign_study(study, KEY))
    verify_study(study, read_signature(Path(path)), PUBLIC)
