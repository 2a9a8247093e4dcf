"""Enrolment under attack: each case is what somebody tries, and each leaves the registry as it was."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from client.join import join
from client.site import Site
from common.errors import TrustError
from common.pki import keys, request
from common.pki.address import parse_address
from common.pki.documents import signed_bytes, write_document
from common.pki.invitation import DAYS, Invitation, make_invitation, open_invitation, sign_invitation
from common.pki.request import make_request
from server.ca import create
from server.coordinator import Coordinator
from server.registry import Registry

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = NOW + timedelta(days=1)
EXPIRED = NOW + timedelta(days=DAYS)


@dataclass
class World:
    """One honest coordinator, and a hospital that it has just invited."""

    root: Path
    coordinator: Coordinator
    registry: Registry
    invitation: Invitation
    sent: bytes

    def invite(self, title: str = "St. Anna", site: str = "st-anna") -> tuple[Invitation, bytes]:
        return invite(self.coordinator, title, site)

    def joins(self, sent: bytes | None = None, folder: str = "site", now: datetime = LATER) -> tuple[Site, bytes]:
        """The hospital opens the invitation and answers it."""
        site, answer = join(open_invitation(self.sent if sent is None else sent, now), self.root / folder)
        return site, answer.encode()

    def admits(self, answer: bytes, now: datetime = LATER) -> None:
        self.registry.admit(answer, now)


def invite(coordinator: Coordinator, title: str, site: str) -> tuple[Invitation, bytes]:
    key = coordinator.study_key()
    made = make_invitation(
        coordinator=coordinator.config.title,
        address=coordinator.config.address,
        authority=coordinator.authority_file.read_text(),
        study_key=key,
        site=site,
        title=title,
        now=NOW,
        random=secrets.token_bytes,
    )
    Registry(coordinator.registry_file).invite(made, NOW)
    return made, sign_invitation(made, key).encode()


def new_coordinator(folder: Path) -> Coordinator:
    return create(folder, "Coordinator", parse_address("fedct.example.org:8443"), "correct horse battery", NOW)


@pytest.fixture
def world(tmp_path) -> World:
    coordinator = new_coordinator(tmp_path / "coordinator")
    made, sent = invite(coordinator, "St. Anna", "st-anna")
    return World(tmp_path, coordinator, Registry(coordinator.registry_file), made, sent)


def state(world: World) -> list[str]:
    with sqlite3.connect(world.registry.path) as database:
        return list(database.iterdump())


def test_an_invited_hospital_joins_and_is_admitted_with_its_own_key(world):
    site, answer = world.joins()
    world.admits(answer)
    (node,) = world.registry.admitted()
    key = keys.read_node_key((site.node_dir / "node.key").read_bytes())
    assert (node.site, node.key) == ("st-anna", keys.node_public(key))


def altered(sent: bytes, **changes: object) -> bytes:
    """An invitation with changed values under its old signature."""
    document = json.loads(sent)
    document["body"] |= changes
    return json.dumps(document).encode()


def an_altered_address(world: World) -> None:
    world.joins(altered(world.sent, address="evil.example.org:8443"))


def an_altered_expiry(world: World) -> None:
    world.joins(altered(world.sent, expires="2030-01-01T00:00:00Z"))


def an_altered_study_key(world: World) -> None:
    world.joins(altered(world.sent, study_key=keys.study_public(keys.new_study_key())))


def an_expired_invitation_at_the_site(world: World) -> None:
    world.joins(now=EXPIRED)


def an_expired_invitation_at_the_coordinator(world: World) -> None:
    _, answer = world.joins()
    world.admits(answer, now=EXPIRED)


def a_request_handed_in_twice(world: World) -> None:
    _, answer = world.joins()
    world.admits(answer)
    world.admits(answer)


def an_invitation_stolen_and_used_first(world: World) -> None:
    thief = make_request(world.invitation, keys.new_p384_key())
    world.admits(thief.encode())
    _, answer = world.joins()
    world.admits(answer)


def an_invitation_used_a_second_time_with_another_key(world: World) -> None:
    _, answer = world.joins()
    world.admits(answer)
    world.admits(make_request(world.invitation, keys.new_p384_key()).encode())


def a_request_read_on_its_way_and_sent_with_another_key(world: World) -> None:
    _, answer = world.joins()
    thief = keys.new_p384_key()
    body = json.loads(answer)["body"] | {"node_key": keys.node_public(thief)}
    signature = thief.sign(signed_bytes(request.KIND, body), ec.ECDSA(hashes.SHA384()))
    world.admits(write_document(request.KIND, body, signature).encode())


def a_request_with_the_key_of_another_hospital(world: World) -> None:
    _, other = world.invite("St. Berta", "st-berta")
    _, answer = world.joins(other, "berta")
    body = json.loads(world.joins()[1])["body"] | {"node_key": json.loads(answer)["body"]["node_key"]}
    world.admits(write_document(request.KIND, body, bytes.fromhex(json.loads(answer)["signature"])).encode())


def one_key_for_two_hospitals(world: World) -> None:
    key = keys.new_p384_key()
    other, _ = world.invite("St. Berta", "st-berta")
    world.admits(make_request(other, key).encode())
    world.admits(make_request(world.invitation, key).encode())


def an_invitation_of_one_hospital_used_for_another_name(world: World) -> None:
    other = world.invitation.model_copy(update={"site": "st-berta"})
    answer = json.loads(make_request(other, key := keys.new_p384_key()))["body"] | {
        "invitation": world.invitation.digest
    }
    signature = key.sign(signed_bytes(request.KIND, answer), ec.ECDSA(hashes.SHA384()))
    world.admits(write_document(request.KIND, answer, signature).encode())


def an_invitation_made_anew_by_somebody_in_between(world: World) -> None:
    """He keeps the token, and puts his own address and study key in; the hospital does not compare fingerprints."""
    his = keys.new_study_key()
    changes = {"address": "evil.example.org:8443", "study_key": keys.study_public(his)}
    _, answer = world.joins(sign_invitation(world.invitation.model_copy(update=changes), his).encode())
    world.admits(answer)


def an_answer_to_another_coordinator(world: World) -> None:
    _, sent = invite(new_coordinator(world.root / "other"), "St. Anna", "st-anna")
    world.admits(world.joins(sent)[1])


def a_guessed_token(world: World) -> None:
    guess = world.invitation.model_copy(update={"token": secrets.token_hex(32)})
    body = json.loads(make_request(guess, key := keys.new_p384_key()))["body"] | {"invitation": world.invitation.digest}
    signature = key.sign(signed_bytes(request.KIND, body), ec.ECDSA(hashes.SHA384()))
    world.admits(write_document(request.KIND, body, signature).encode())


def an_older_invitation_after_a_newer_one_was_made(world: World) -> None:
    world.invite()
    world.admits(world.joins()[1])


def an_invitation_after_the_site_was_revoked(world: World) -> None:
    answer = world.joins()[1]
    world.registry.revoke("st-anna", LATER)
    world.admits(answer)


def a_revoked_key_with_a_new_invitation(world: World) -> None:
    key = keys.new_p384_key()
    world.admits(make_request(world.invitation, key).encode())
    world.registry.revoke("st-anna", LATER)
    again, _ = world.invite()
    world.admits(make_request(again, key).encode())


def the_invitation_itself_handed_in_as_a_request(world: World) -> None:
    world.admits(world.sent)


def a_request_cut_short(world: World) -> None:
    world.admits(world.joins()[1][:-20])


ATTACKS: dict[Callable[[World], None], str] = {
    an_altered_address: "was altered",
    an_altered_expiry: "was altered",
    an_altered_study_key: "was altered",
    an_expired_invitation_at_the_site: "expired at",
    an_expired_invitation_at_the_coordinator: "expired at",
    a_request_handed_in_twice: "was admitted at .* already",
    an_invitation_stolen_and_used_first: "by another key, whose fingerprint is",
    an_invitation_used_a_second_time_with_another_key: "by another key, whose fingerprint is",
    a_request_read_on_its_way_and_sent_with_another_key: "did not hold its invitation",
    a_request_with_the_key_of_another_hospital: "not signed by the node key",
    one_key_for_two_hospitals: "admitted for site 'st-berta' before, and is in use",
    an_invitation_of_one_hospital_used_for_another_name: "did not hold its invitation",
    an_invitation_made_anew_by_somebody_in_between: "did not make",
    an_answer_to_another_coordinator: "did not make",
    a_guessed_token: "did not hold its invitation",
    an_older_invitation_after_a_newer_one_was_made: "was withdrawn",
    an_invitation_after_the_site_was_revoked: "was withdrawn",
    a_revoked_key_with_a_new_invitation: "admitted for site 'st-anna' before, and was revoked",
    the_invitation_itself_handed_in_as_a_request: "not a fedct request",
    a_request_cut_short: "not a fedct request",
}


@pytest.mark.parametrize(
    ("attack", "reason"),
    [pytest.param(*case, id=case[0].__name__.replace("_", " ")) for case in ATTACKS.items()],
)
def test_the_attack_is_refused_with_its_reason_and_changes_nothing(world, attack, reason, monkeypatch):
    before = []
    admit = Registry.admit

    def watched(registry: Registry, content: bytes, now: datetime):
        before[:] = state(world)
        return admit(registry, content, now)

    monkeypatch.setattr(Registry, "admit", watched)
    with pytest.raises(TrustError, match=reason):
        attack(world)
    if before:  # it came as far as the coordinator
        assert state(world) == before
    else:  # the hospital refused it, and made nothing
        assert not (world.root / "site").exists()


def test_of_two_requests_for_one_invitation_the_second_names_the_keys_of_both(world):
    thief, honest = keys.new_p384_key(), keys.new_p384_key()
    world.admits(make_request(world.invitation, thief).encode())
    with pytest.raises(TrustError) as caught:
        world.admits(make_request(world.invitation, honest).encode())
    for key in (thief, honest):
        assert request.node_fingerprint(keys.node_public(key)) in caught.value.message
    assert "fedct-coordinator revoke st-anna" in caught.value.remedy


def test_no_token_is_in_the_coordinators_folder(world):
    world.admits(world.joins()[1])
    token = world.invitation.token
    for path in world.coordinator.folder.rglob("*"):
        content = path.read_bytes()
        assert token.encode() not in content
        assert bytes.fromhex(token) not in content


def test_no_private_node_key_leaves_the_site(world):
    site, answer = world.joins()
    world.admits(answer)
    secret = (site.node_dir / "node.key").read_bytes().splitlines()[4]
    for path in (world.root / "coordinator").rglob("*"):
        assert secret not in path.read_bytes()
    assert secret not in answer
