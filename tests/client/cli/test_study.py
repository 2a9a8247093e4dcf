"""fedct-site study and fedct-site join, as they are typed."""

from __future__ import annotations

import io
import json
import secrets
import sys
from datetime import UTC, datetime

import pytest

from client.cli import main
from client.site import load_site
from common.errors import PolicyRefusal, TrustError, UsageError
from common.pki import certificates, keys
from common.pki.invitation import make_invitation, sign_invitation
from common.pki.request import open_request
from common.pki.signature import sign_study

KEY = keys.new_study_key()


@pytest.fixture
def call(typed):
    """Type ``fedct-site ...`` in a folder of its own; the exit code, and what stood on the two outputs."""
    return typed(main, "fedct-site")


@pytest.fixture
def invitation(tmp_path):
    now = datetime.now(UTC)
    made = make_invitation(
        coordinator="University",
        address="h.example:8443",
        authority=certificates.certificate_text(certificates.make_authority("U", keys.new_p384_key(), now)),
        study_key=KEY,
        site="st-anna",
        title="St. Anna",
        now=now,
        random=secrets.token_bytes,
    )
    (tmp_path / "from-mail.invite").write_text(sign_invitation(made, KEY))
    return made


@pytest.fixture
def joined(call, invitation, tmp_path):
    assert call("join", "from-mail.invite", "--yes")[0] == 0
    path = tmp_path / "st-anna" / "site.toml"
    path.write_text(path.read_text().replace("max_delta = 1e-05", "max_delta = 0.001").replace("= 8.0", "= 20.0"))
    return load_site(tmp_path / "st-anna")


@pytest.fixture
def study(tmp_path, small_study, study_file):
    """A signed study in ``study.toml``."""
    made = small_study()
    study_file(tmp_path / "study.toml", made)
    (tmp_path / "study.toml.sig").write_text(sign_study(made, KEY))
    return made


def test_join_shows_both_fingerprints_and_writes_site_and_request(call, invitation, tmp_path):
    code, shown, _ = call("join", "from-mail.invite", "--yes")
    assert code == 0
    request = open_request((tmp_path / "st-anna.request").read_bytes())
    assert "'University' at h.example:8443 invites 'St. Anna' as site 'st-anna'" in shown
    assert f"Fingerprint of the coordinator: {invitation.fingerprint}" in shown
    assert request.fingerprint in shown
    assert load_site(tmp_path / "st-anna").joined
    code, shown, _ = call("join", "from-mail.invite", "--site", "st-anna", "--yes")
    assert (code, request.fingerprint in shown) == (0, True)


def test_join_makes_nothing_before_somebody_compared_the_fingerprint(call, invitation, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    code, shown, errors = call("join", "from-mail.invite")
    assert (code, invitation.fingerprint in shown) == (UsageError.exit_code, True)
    assert "then give --yes" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["from-mail.invite"]


def test_an_altered_or_missing_invitation_is_one_line_and_makes_nothing(call, invitation, tmp_path):
    path = tmp_path / "from-mail.invite"
    path.write_text(path.read_text().replace("h.example", "evil.example"))
    code, _, errors = call("join", path, "--yes")
    assert (code, len(errors.splitlines())) == (TrustError.exit_code, 1)
    assert "was altered" in errors
    assert call("join", "none", "--yes")[0] == UsageError.exit_code
    assert [found.name for found in tmp_path.iterdir()] == ["from-mail.invite"]


def test_a_study_is_reviewed_approved_and_refused(call, joined, study):
    code, shown, _ = call("study", "review", "study.toml", "--site", "st-anna")
    assert code == 0
    assert study.digest in shown
    assert "signed by the coordinator at h.example:8443" in shown
    assert "It fits the budget. It is not approved yet." in shown
    assert not joined.is_approved(study)
    code, shown, _ = call("study", "approve", "study.toml", "--site", "st-anna")
    assert (code, "is approved" in shown) == (0, True)
    assert joined.is_approved(study)
    assert "approved   yes" in call("study", "review", "study.toml", "--site", "st-anna")[1]
    code, shown, _ = call("study", "refuse", "study.toml", "--site", "st-anna")
    assert (code, "its approval is taken back" in shown) == (0, True)
    assert not joined.is_approved(study)


def test_the_same_as_json_from_within_the_site_folder(call, joined, study, monkeypatch):
    monkeypatch.chdir(joined.folder)
    content = json.loads(call("study", "review", "../study.toml", "--json")[1])
    assert (content["site"], content["digest"]) == ("st-anna", study.digest)
    assert (content["signature_problem"], content["approved"], content["cohort"]) == ("", False, None)
    assert content["forecast"]["fits"] is True
    assert content["forecast"]["rounds"] == 2
    assert json.loads(call("study", "approve", "../study.toml", "--json")[1])["approved"] is True
    refused = json.loads(call("study", "refuse", "../study.toml", "--json")[1])
    assert (refused["approved"], refused["was"]) == (False, True)


@pytest.mark.failure(
    "a study that was edited after it was signed",
    seen="at the site: the signature does not hold",
    ends="not approved, so the site is not ready",
    ledgers="nothing",
)
def test_a_study_edited_after_signing_is_not_approved(call, joined, study, study_file, small_study, tmp_path):
    study_file(tmp_path / "study.toml", small_study(federation={"rounds": 3}))
    code, _, errors = call("study", "approve", "study.toml", "--site", "st-anna")
    assert (code, len(errors.splitlines())) == (TrustError.exit_code, 1)
    assert "was changed after it was signed" in errors
    code, shown, _ = call("study", "review", "study.toml", "--site", "st-anna")
    assert (code, "signature  DOES NOT HOLD" in shown) == (0, True)


def test_a_study_without_a_signature_file_is_not_approved(call, joined, study, tmp_path):
    (tmp_path / "study.toml.sig").unlink()
    code, _, errors = call("study", "approve", "study.toml", "--site", "st-anna")
    assert (code, "has no signature" in errors) == (TrustError.exit_code, True)


def test_a_study_that_asks_for_more_than_the_site_allows_is_refused_and_not_made_smaller(
    call, joined, study, study_file, small_study, tmp_path
):
    greedy = small_study(training={"local_steps": 10_000}, privacy={"unit": "off"})
    study_file(tmp_path / "study.toml", greedy)
    (tmp_path / "study.toml.sig").write_text(sign_study(greedy, KEY))
    path = tmp_path / "st-anna" / "site.toml"
    path.write_text(path.read_text().replace("allow_without_privacy = false", "allow_without_privacy = true"))
    code, _, errors = call("study", "approve", "study.toml", "--site", "st-anna")
    assert (code, "20000 steps; policy.max_steps is 10000" in errors) == (PolicyRefusal.exit_code, True)
    assert "Refused by the site's policy" in call("study", "review", "study.toml", "--site", "st-anna")[1]
    assert not (joined.folder / "approved").exists()
