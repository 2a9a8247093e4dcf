"""The coordinator's folder: made whole, renewed in place, and never half of either."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest

from common.errors import CoordinatorError, TrustError, UsageError
from common.pki.address import parse_address
from common.pki.certificates import SERVER_DAYS, WARN_DAYS, check_authority, read_certificate
from server import ca
from server.coordinator import open_coordinator

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
PASSPHRASE = "correct horse battery"


def make(folder, now=NOW, address="fedct.example.org:8443"):
    return ca.create(folder, "St. Anna", parse_address(address), PASSPHRASE, now)


@pytest.fixture
def coordinator(tmp_path):
    return make(tmp_path / "coordinator")


def test_a_new_coordinator_is_opened_again_as_it_was_made(coordinator):
    assert open_coordinator(coordinator.folder) == coordinator
    assert coordinator.config.address == "fedct.example.org:8443"
    assert coordinator.config.control == "127.0.0.1:8444"
    check_authority(read_certificate(coordinator.authority_file.read_text()), NOW)
    assert {e.name: e.days for e in ca.expiries(coordinator, NOW)} == {"server": SERVER_DAYS, "authority": 3650}


def test_only_its_owner_may_enter_or_read(coordinator):
    assert stat.S_IMODE(coordinator.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in coordinator.folder.iterdir()} == {0o600}


def test_the_authoritys_key_lies_encrypted_and_the_passphrase_nowhere(coordinator):
    assert b"ENCRYPTED" in coordinator.authority_key_file.read_bytes()
    assert all(PASSPHRASE.encode() not in path.read_bytes() for path in coordinator.folder.iterdir())


def test_a_coordinator_is_made_in_an_empty_folder_and_over_nothing(tmp_path, coordinator):
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    before = {path: path.read_bytes() for path in coordinator.folder.iterdir()}
    with pytest.raises(CoordinatorError, match="exists already"):
        make(coordinator.folder)
    assert {path: path.read_bytes() for path in coordinator.folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(CoordinatorError, match="exists already"):
        make(tmp_path / "file")


def test_what_fails_on_the_way_leaves_no_folder(tmp_path, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device", str(self.path))

    monkeypatch.setattr("server.ca.Registry.create", full)
    with pytest.raises(Exception, match="no space left"):
        make(tmp_path / "coordinator")
    assert list(tmp_path.iterdir()) == []


def test_a_short_passphrase_makes_nothing(tmp_path):
    with pytest.raises(UsageError, match="passphrase"):
        ca.create(tmp_path / "c", "C", parse_address("h.example:1"), "short", NOW)
    assert list(tmp_path.iterdir()) == []


def test_renewing_changes_the_servers_certificate_alone_and_sites_notice_nothing(coordinator):
    before = {path.name: path.read_bytes() for path in coordinator.folder.iterdir()}
    later = NOW + 380 * DAY
    assert ca.renew(coordinator, PASSPHRASE, later).days == SERVER_DAYS
    after = {path.name: path.read_bytes() for path in coordinator.folder.iterdir()}
    assert [name for name in before if before[name] != after[name]] == ["server.crt"]
    old, new = (read_certificate(content["server.crt"].decode()) for content in (before, after))
    assert old.public_key() == new.public_key()
    new.verify_directly_issued_by(read_certificate(after["ca.crt"].decode()))


def test_a_wrong_passphrase_renews_nothing(coordinator):
    before = coordinator.server_file.read_bytes()
    with pytest.raises(TrustError, match="can't be opened"):
        ca.renew(coordinator, "wrong horse battery", NOW)
    assert coordinator.server_file.read_bytes() == before


def test_a_key_that_is_kept_elsewhere_is_asked_for_by_name(coordinator):
    coordinator.authority_key_file.unlink()
    with pytest.raises(CoordinatorError, match=r"ca\.key' does not exist"):
        ca.renew(coordinator, PASSPHRASE, NOW)


def test_the_authority_of_another_coordinator_renews_nothing(coordinator, tmp_path):
    other = make(tmp_path / "other")
    coordinator.authority_key_file.write_bytes(other.authority_key_file.read_bytes())
    with pytest.raises(TrustError, match="does not belong"):
        ca.renew(coordinator, PASSPHRASE, NOW)


@pytest.mark.parametrize(
    ("days", "said"),
    [(WARN_DAYS, ""), (WARN_DAYS - 1, "ends in 29 days: run 'fedct-coordinator renew'"), (-1, "has ended")],
)
def test_a_certificate_is_warned_about_from_thirty_days(coordinator, days, said):
    server, authority = ca.expiries(coordinator, NOW + (SERVER_DAYS - days) * DAY)
    assert server.days == days
    assert (said in server.warning) if said else (server.warning == "")
    assert authority.warning == ""


def test_an_address_at_the_last_port_keeps_a_port_for_the_operator(tmp_path):
    assert make(tmp_path / "c", address="h.example:65535").config.control == "127.0.0.1:65534"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "title"),
        ('title = "C"\naddress = "h"\ncontrol = "127.0.0.1:1"', "address = 'h'"),
        ('title = "C"\naddress = "h:1"\ncontrol = "0.0.0.0:1"', "control = '0.0.0.0:1': expected 127.0.0.1 and a port"),
        ('title = "C"\naddress = "h:1"\ncontrol = "[::1]:1"', "expected 127.0.0.1 and a port"),
        ('title = "C"\naddress = "h:1"\ncontrol = "h.example:1"', "expected 127.0.0.1 and a port"),
        ('title = "C"\naddress = "h:1"\ncontrol = "127.0.0.1:1"\nmore = 1', "more = 1: unknown key"),
        ('title = "\\u001b"\naddress = "h:1"\ncontrol = "127.0.0.1:1"', "printable"),
        ("title = ", "can't be read"),
    ],
)
def test_bad_settings_are_refused_by_file_key_and_value(coordinator, text, named):
    (coordinator.folder / "coordinator.toml").write_text(text)
    with pytest.raises(CoordinatorError) as caught:
        open_coordinator(coordinator.folder)
    assert named in caught.value.message
    assert "coordinator.toml" in caught.value.message


def test_a_folder_that_is_no_coordinators_is_refused(tmp_path):
    with pytest.raises(CoordinatorError, match=r"coordinator\.toml' does not exist"):
        open_coordinator(tmp_path)
