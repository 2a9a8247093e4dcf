from __future__ import annotations

import hmac
import multiprocessing
import stat
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from client.keys import ENVIRONMENT, OVERHEAD, SealBroken, SiteKey, load_key, load_or_make_key
from common.errors import SiteError, StorageError

SECRET = bytes(range(32))
KEY = SiteKey.from_secret(SECRET)


@pytest.fixture(autouse=True)
def _no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv(ENVIRONMENT, raising=False)


def test_a_pseudonym_is_an_hmac_with_a_key_of_its_own():
    derived = HKDF(SHA256(), 32, salt=None, info=b"fedct site key: pseudonym").derive(SECRET)
    assert KEY.pseudonym("patient", "P1") == hmac.new(derived, b"patient\0P1", sha256).digest()[:16]


def test_pseudonyms_differ_by_kind_identifier_and_site():
    other = SiteKey.from_secret(bytes(32))
    found = [
        KEY.pseudonym("patient", "P1"),
        KEY.pseudonym("patient", "P2"),
        KEY.pseudonym("file", "P1"),
        other.pseudonym("patient", "P1"),
        KEY.pseudonym("patient", "\udcff"),
    ]
    assert len(set(found)) == len(found)
    assert KEY.pseudonym("patient", "P1") == SiteKey.from_secret(SECRET).pseudonym("patient", "P1")


@given(content=st.binary(max_size=200), context=st.binary(max_size=50))
def test_what_was_sealed_opens_in_its_context_alone(content, context):
    sealed = KEY.seal(content, context)
    assert len(sealed) == len(content) + OVERHEAD
    assert KEY.open(sealed, context) == content
    assert KEY.open(memoryview(sealed), context) == content
    for key, place in ((KEY, context + b"x"), (SiteKey.from_secret(bytes(32)), context)):
        with pytest.raises(SealBroken):
            key.open(sealed, place)


@given(place=st.integers(0, 27 + 5), bit=st.integers(0, 7))
def test_a_flipped_bit_or_a_missing_byte_breaks_the_seal(place, bit):
    sealed = bytearray(KEY.seal(b"hello", b""))
    short = bytes(sealed[:place])
    sealed[place] ^= 1 << bit
    for damaged in (bytes(sealed), short):
        with pytest.raises(SealBroken):
            KEY.open(damaged, b"")


def test_equal_contents_are_sealed_differently():
    assert len({KEY.seal(b"same", b"") for _ in range(100)}) == 100


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "site.key"
    made = load_or_make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["site.key"]
    assert len(bytes.fromhex(path.read_text().strip())) == 32
    for again in (load_or_make_key(path), load_key(path)):
        assert again.pseudonym("patient", "P1") == made.pseudonym("patient", "P1")
    assert load_or_make_key(tmp_path / "other").pseudonym("a", "b") != made.pseudonym("a", "b")


def test_the_environment_wins_over_the_file(tmp_path, monkeypatch):
    path = tmp_path / "site.key"
    load_or_make_key(path)
    monkeypatch.setenv(ENVIRONMENT, f" {SECRET.hex().upper()}\n")
    assert load_key(path).pseudonym("a", "b") == KEY.pseudonym("a", "b")
    path.unlink()
    assert load_or_make_key(path).pseudonym("a", "b") == KEY.pseudonym("a", "b")
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"00" * 31, b"00" * 33, b"zz" * 32, b"\xff" * 64])
def test_a_damaged_key_is_an_error_and_never_replaced(tmp_path, monkeypatch, content):
    path = tmp_path / "site.key"
    path.write_bytes(content)
    for load in (load_key, load_or_make_key):
        with pytest.raises(SiteError, match=r"site key .* is not 64 hex digits") as caught:
            load(path)
        assert "restore the key" in caught.value.remedy
    assert path.read_bytes() == content
    monkeypatch.setenv(ENVIRONMENT, "short")
    with pytest.raises(SiteError, match="environment variable FEDCT_SITE_KEY is not 64 hex digits"):
        load_key(path)


def test_a_missing_key_is_an_error_where_something_was_sealed_with_it(tmp_path):
    with pytest.raises(SiteError, match="does not exist"):
        load_key(tmp_path / "site.key")
    with pytest.raises(StorageError, match="No such file or directory"):
        load_or_make_key(tmp_path / "no folder" / "site.key")
    with pytest.raises(SiteError, match="can't be read"):
        load_key(tmp_path)


def test_a_key_shows_nothing_of_itself():
    shown = f"{KEY!r} {KEY}"
    assert shown == "SiteKey(...) SiteKey(...)"


@pytest.mark.slow
def test_processes_that_make_a_key_at_once_agree_on_one(tmp_path):
    path = tmp_path / "site.key"
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        found = pool.map(_pseudonym, [path] * 8)
    assert len(set(found)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["site.key"]


def _pseudonym(path):
    return load_or_make_key(path).pseudonym("a", "b")
