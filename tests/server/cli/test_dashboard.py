"""The page's commands: where it may be served, and who may use it."""

from __future__ import annotations

import pytest

from common.errors import CoordinatorError, UsageError
from common.web.accounts import Accounts
from server.cli import main
from simulations.showcase import make_coordinator

PASSWORD = "correct horse battery"


@pytest.fixture
def call(typed, tmp_path):
    make_coordinator(tmp_path / "here", ("St. Anna",))
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return typed(main, "fedct-coordinator")


def test_an_account_is_made_changed_and_ended(call, tmp_path):
    accounts = Accounts(tmp_path / "here" / "accounts.toml")
    code, said, _ = call("account", "anna", "--role", "operator", "--password-file", "password", "--dir", "here")
    assert (code, "operator" in said) == (0, True)
    assert accounts.check("anna", PASSWORD).role == "operator"
    assert call("account", "anna", "--remove", "--dir", "here")[0] == 0
    assert accounts.read() == {}


def test_a_wrong_account_is_one_line(call):
    for words in (
        ("anna", "--role", "root", "--password-file", "password"),
        ("Anna", "--password-file", "password"),
        ("anna", "--password-file", "none"),
        ("anna",),
        ("nobody", "--remove"),
    ):
        code, _, errors = call("account", *words, "--dir", "here")
        assert (code, len(errors.splitlines())) == (UsageError.exit_code, 1), words


def test_the_page_is_not_served_to_other_machines_without_tls_and_accounts(call):
    code, _, errors = call("dashboard", "--dir", "here", "--host", "0.0.0.0", "--port", "0")
    assert code == UsageError.exit_code
    assert "no accounts" in errors
    assert call("dashboard", "--dir", "nowhere")[0] == CoordinatorError.exit_code
    code, _, errors = call("dashboard", "--run", "here", "--port", "0")
    assert code == UsageError.exit_code
    assert "holds no run" in errors


def test_the_page_says_where_it_is_and_is_served_with_the_coordinators_runs(call, monkeypatch):
    served = []
    monkeypatch.setattr(
        "common.web.serve.serve",
        lambda app, listener, where, ready: (served.append((app, where)), ready(), listener.close()),
    )
    code, said, _ = call("dashboard", "--dir", "here", "--port", "0")
    assert code == 0
    ((app, where),) = served
    assert said.split() == ["Open", app.state.door.link]
    assert app.state.door.link.startswith(f"http://127.0.0.1:{where.port}/enter?token=")
    assert app.state.desk.coordinator.config.title == "University Hospital"
