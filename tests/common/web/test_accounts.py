"""The file of accounts."""

from __future__ import annotations

import pytest

from common.errors import UsageError
from common.web.accounts import Accounts, allows

PASSWORD = "correct horse battery"


def test_a_password_is_kept_as_a_salted_hash_in_a_file_for_its_owner_alone(tmp_path):
    accounts = Accounts(tmp_path / "accounts.toml")
    accounts.put("anna", "viewer", PASSWORD)
    accounts.put("ben", "approver", PASSWORD)
    text = accounts.path.read_text()
    assert PASSWORD not in text
    assert len({account.hash for account in accounts.read().values()}) == 2
    assert accounts.path.stat().st_mode & 0o777 == 0o600


def test_the_right_password_opens_its_own_account_alone(tmp_path):
    accounts = Accounts(tmp_path / "accounts.toml")
    accounts.put("anna", "operator", PASSWORD)
    assert accounts.check("anna", PASSWORD).role == "operator"
    assert accounts.check("anna", PASSWORD + "x") is None
    assert accounts.check("anna", "") is None
    assert accounts.check("nobody", PASSWORD) is None


@pytest.mark.parametrize(
    ("name", "password"),
    [("", PASSWORD), ("Anna", PASSWORD), ("a.b", PASSWORD), ("anna", "short"), ("anna", "x" * 1025)],
)
def test_a_bad_name_or_password_is_refused_and_nothing_is_written(tmp_path, name, password):
    accounts = Accounts(tmp_path / "accounts.toml")
    with pytest.raises(UsageError):
        accounts.put(name, "viewer", password)
    assert accounts.read() == {}


def test_a_file_with_an_unknown_role_or_hash_opens_nothing(tmp_path):
    accounts = Accounts(tmp_path / "accounts.toml")
    for line in ('role = "root"', 'role = "viewer"\nhash = "plain"', "nonsense"):
        accounts.path.write_text(f"[anna]\n{line}\n")
        with pytest.raises(UsageError, match=r"accounts\.toml"):
            accounts.check("anna", PASSWORD)


def test_roles_rise_from_viewer_to_approver():
    assert [allows("operator", needed) for needed in ("viewer", "operator", "approver")] == [True, True, False]
