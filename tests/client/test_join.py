"""Joining: what it makes, what it refuses to touch, and that it can be done again after a crash."""

from __future__ import annotations

import os
import secrets
import stat
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.join import join
from client.site import PolicySettings, SiteConfig, create_site, load_site
from common.errors import FedctError, SiteError
from common.pki import certificates, keys
from common.pki.invitation import make_invitation, token_digest
from common.pki.request import open_request

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
AUTHORITY = certificates.certificate_text(certificates.make_authority("C", keys.new_p384_key(), NOW))


def invite(title="St. Anna"):
    return make_invitation(
        coordinator="C",
        address="h.example:8443",
        authority=AUTHORITY,
        study_key=keys.new_study_key(),
        site="st-anna",
        title=title,
        now=NOW,
        random=secrets.token_bytes,
    )


INVITATION = invite()


def test_joining_makes_a_site_with_the_strictest_policy_and_a_key_that_only_it_can_read(tmp_path):
    site, request = join(INVITATION, tmp_path / "site")
    assert load_site(tmp_path / "site") == site
    assert (site.name, site.config.title, site.joined) == ("st-anna", "St. Anna", True)
    assert site.config.policy == PolicySettings()
    assert site.config.coordinator.address == "h.example:8443"
    assert site.config.coordinator.study_key == INVITATION.study_key
    assert (site.node_dir / "authority.crt").read_text() == AUTHORITY
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (site.folder, *site.folder.rglob("*"))}
    assert modes == {"site": 0o700, "node": 0o700, "node.key": 0o600, "authority.crt": 0o600, "site.toml": 0o600}
    key = keys.read_node_key((site.node_dir / "node.key").read_bytes())
    opened = open_request(request.encode())
    assert opened.node_key == keys.node_public(key)
    assert opened.holds(token_digest(INVITATION.token))
    assert INVITATION.token not in (site.folder / "site.toml").read_text()


def test_every_site_makes_a_key_of_its_own(tmp_path):
    first, second = (open_request(join(INVITATION, tmp_path / name)[1].encode()) for name in ("a", "b"))
    assert first.node_key != second.node_key


def test_a_site_that_exists_keeps_its_settings_and_comments(tmp_path):
    text = '# ours\nname = "st-anna"  # as agreed\n[policy]\nmax_epsilon = 3.0\n'
    (tmp_path / "site.toml").write_text(text)
    site, _ = join(INVITATION, tmp_path)
    assert site.config.policy.max_epsilon == 3.0
    assert site.joined
    assert (tmp_path / "site.toml").read_text().startswith(text)


def test_a_site_that_ingest_made_joins_too(tmp_path):
    create_site(tmp_path / "site", SiteConfig(name="st-anna"))
    site, _ = join(INVITATION, tmp_path / "site")
    assert site.joined


def test_the_same_invitation_again_gives_a_request_for_the_same_key(tmp_path):
    _, first = join(INVITATION, tmp_path / "site")
    before = {p: p.read_bytes() for p in (tmp_path / "site").rglob("*") if p.is_file()}
    _, second = join(INVITATION, tmp_path / "site")
    assert {p: p.read_bytes() for p in (tmp_path / "site").rglob("*") if p.is_file()} == before
    assert open_request(first.encode()) == open_request(second.encode())


def refused(folder, invitation=INVITATION) -> str:
    """The refusal, and that nothing in the folder was changed."""
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(SiteError) as caught:
        join(invitation, folder)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    return str(caught.value)


def test_another_invitation_does_not_replace_the_key_of_a_joined_site(tmp_path):
    join(INVITATION, tmp_path / "site")
    assert "with another invitation" in refused(tmp_path / "site", invite())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name = "st-berta"\n', "has name = 'st-berta'; the invitation is for site 'st-anna'"),
        ('name = "st-anna"\nsimulated = true\n', "simulated"),
        ('name = "st-anna"\n[coordinator]\nnode = "elsewhere"\n', "without an address"),
        ('name = "st-anna"\nmore = 1\n', "unknown key"),
    ],
)
def test_a_site_that_does_not_fit_the_invitation_is_left_alone(tmp_path, text, reason):
    (tmp_path / "site.toml").write_text(text)
    assert reason in refused(tmp_path)


def test_files_that_are_not_a_nodes_are_not_deleted(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "thesis.txt").write_text("mine")
    assert "other files" in refused(tmp_path)


@pytest.mark.parametrize("call", ["open", "rename", "replace", "fsync"])
@settings(max_examples=8, deadline=None)
@given(nth=st.integers(1, 8))
def test_whatever_fails_on_the_way_joining_again_succeeds(tmp_path_factory, call, nth):
    """A disk that fails at the n-th call leaves a site that is not joined, or is joined whole."""
    folder = tmp_path_factory.mktemp("join") / "site"
    real, seen = getattr(os, call), 0

    def fails(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == nth:
            raise OSError(5, "Input/output error")
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fails)
        try:
            join(INVITATION, folder)
        except (FedctError, OSError):
            if (folder / "site.toml").exists():
                assert load_site(folder).joined
    site, request = join(INVITATION, folder)
    assert open_request(request.encode()).holds(token_digest(INVITATION.token))
    assert sorted(p.name for p in site.node_dir.iterdir()) == ["authority.crt", "node.key"]
    assert sorted(p.name for p in site.folder.iterdir()) == ["node", "site.toml"]
