"""The registry: standings, one node a site, one use of an invitation. Attacks are in tests/protocol."""

from __future__ import annotations

import secrets
import sqlite3
import stat
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CoordinatorError, FedctError, TrustError, UsageError
from common.pki import certificates, keys
from common.pki.invitation import make_invitation
from common.pki.request import make_request
from server.registry import Node, Registry, site_name

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
AUTHORITY = certificates.certificate_text(certificates.make_authority("C", keys.new_p384_key(), NOW))
STUDY_KEY = keys.new_study_key()


@pytest.fixture
def registry(tmp_path) -> Registry:
    made = Registry(tmp_path / "registry.sqlite")
    made.create()
    return made


def invite(registry, title="St. Anna", now=NOW):
    invitation = make_invitation(
        coordinator="C",
        address="h.example:1",
        authority=AUTHORITY,
        study_key=STUDY_KEY,
        site=site_name(title),
        title=title,
        now=now,
        random=secrets.token_bytes,
    )
    registry.invite(invitation, now)
    return invitation


def admit(registry, title="St. Anna", now=NOW) -> Node:
    return registry.admit(make_request(invite(registry, title, now), keys.new_p384_key()).encode(), now)


def standing(registry, now=NOW) -> dict[str, str]:
    return {site.site: site.standing for site in registry.standings(now)}


def test_a_site_is_invited_admitted_and_revoked(registry):
    assert registry.standings(NOW) == ()
    request = make_request(invite(registry), keys.new_p384_key()).encode()
    assert standing(registry) == {"st-anna": "invited"}
    node = registry.admit(request, NOW)
    (known,) = registry.standings(NOW)
    assert (known.site, known.title, known.standing, known.fingerprint) == (
        "st-anna",
        "St. Anna",
        "admitted",
        node.fingerprint,
    )
    assert registry.admitted() == (node,)
    registry.revoke("st-anna", NOW + DAY)
    assert standing(registry) == {"st-anna": "revoked"}
    assert registry.admitted() == ()


def test_an_invitation_that_nobody_used_expires_or_is_withdrawn(registry):
    invite(registry)
    assert standing(registry, NOW + 13 * DAY) == {"st-anna": "invited"}
    assert standing(registry, NOW + 14 * DAY) == {"st-anna": "expired"}
    registry.revoke("st-anna", NOW)
    assert standing(registry) == {"st-anna": "withdrawn"}


def test_a_revoked_site_joins_again_with_a_new_key(registry):
    first = admit(registry)
    registry.revoke("st-anna", NOW)
    second = admit(registry)
    assert first.key != second.key
    assert registry.admitted() == (second,)
    assert standing(registry) == {"st-anna": "admitted"}


def test_an_admitted_site_is_not_invited_over_its_node(registry):
    node = admit(registry)
    with pytest.raises(UsageError, match="admitted already"):
        invite(registry)
    assert registry.admitted() == (node,)


@pytest.mark.parametrize("site", ["st-anna", "nobody", ""])
def test_there_is_nothing_to_revoke_where_nothing_is(registry, site):
    admit(registry)
    registry.revoke("st-anna", NOW)
    with pytest.raises(UsageError, match="neither a node nor an open invitation"):
        registry.revoke(site, NOW)


def test_sites_are_listed_by_name(registry):
    for title in ("West", "East", "North"):
        admit(registry, title)
    assert [node.site for node in registry.admitted()] == ["east", "north", "west"]
    assert list(standing(registry)) == ["east", "north", "west"]


def test_of_requests_at_the_same_moment_one_is_admitted(registry):
    invitation = invite(registry)
    requests = [make_request(invitation, keys.new_p384_key()).encode() for _ in range(8)]
    outcomes: list[object] = []

    def ask(content: bytes) -> None:
        try:
            outcomes.append(Registry(registry.path).admit(content, NOW))
        except FedctError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=ask, args=(content,)) for content in requests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(isinstance(outcome, Node) for outcome in outcomes) == [False] * 7 + [True]
    assert outcomes.count(TrustError) == 7


def test_the_file_is_its_owners_alone_and_is_made_once(registry):
    assert stat.S_IMODE(registry.path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        registry.create()


def test_a_registry_that_is_gone_or_damaged_admits_nobody(registry):
    request = make_request(invite(registry), keys.new_p384_key()).encode()
    registry.path.write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(CoordinatorError, match="is damaged"):
        registry.admit(request, NOW)
    registry.path.unlink()
    for call in (lambda: registry.admit(request, NOW), registry.admitted, lambda: registry.standings(NOW)):
        with pytest.raises(CoordinatorError, match="does not exist"):
            call()
    assert not registry.path.exists()


def test_the_database_itself_refuses_two_nodes_of_one_site(registry):
    admit(registry)
    with sqlite3.connect(registry.path) as database, pytest.raises(sqlite3.IntegrityError):
        database.execute("INSERT INTO node SELECT 'key', site, 'other', admitted, NULL FROM node")


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("St. Anna", "st-anna"),
        ("Klinikum Großhadern", "klinikum-grosshadern"),
        ("  Hôpital  Saint-Éloi (CHU) ", "hopital-saint-eloi-chu"),
        ("A" * 200, "a" * 63),
        ("x" * 62 + " y", "x" * 62),
    ],
)
def test_a_hospital_gets_a_plain_name(title, name):
    assert site_name(title) == name


@pytest.mark.parametrize("title", ["", "---", "東京病院"])
def test_a_title_without_a_latin_letter_or_digit_gives_no_name(title):
    with pytest.raises(UsageError, match="no site name can be made"):
        site_name(title)


@given(title=st.text(max_size=100))
def test_any_title_gives_a_name_that_an_invitation_takes_or_none(title):
    try:
        name = site_name(title)
    except UsageError:
        return
    assert 1 <= len(name) <= 63
    assert name[0].isalnum()
    assert name[-1].isalnum()
