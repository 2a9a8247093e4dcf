from __future__ import annotations

import sys

import pytest

from client.cli import main, serve
from client.site import CoordinatorSettings, SiteConfig, create_site
from common.errors import SiteError

JOINED = CoordinatorSettings(address="ct.example:8443", study_key="a" * 64, invitation="b" * 64)


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Type ``fedct-site serve --site ...``; the exit code, the two outputs, and the sites that were supervised."""
    seen = []
    monkeypatch.setattr("client.node.supervise", lambda services, *_: seen.append(services))
    monkeypatch.setattr(sys.modules[serve.__module__], "told_by_signals", lambda: None)

    def run(site):
        monkeypatch.setattr(sys, "argv", ["fedct-site", "serve", "--site", str(site)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr(), seen

    return run


def test_a_site_is_served_with_what_joining_gave_it(call, tmp_path):
    site = create_site(tmp_path / "site", SiteConfig(name="site-1", coordinator=JOINED))
    site.node_dir.mkdir()
    for name in ("node.key", "authority.crt"):
        (site.node_dir / name).write_text("")
    code, shown, _, ((node, _),) = call(site.folder)
    assert (code, "'site-1' takes part at ct.example:8443" in shown) == (0, True)
    assert "ct.example:8443" in node.command
    assert {str(site.node_dir / "node.key"), str(site.node_dir / "authority.crt")} <= set(node.command)


@pytest.mark.parametrize("config", [SiteConfig(name="site-1"), SiteConfig(name="site-1", simulated=True)])
def test_a_site_that_joined_nobody_is_told_so_in_one_line(call, tmp_path, config):
    create_site(tmp_path / "site", config)
    code, shown, errors, seen = call(tmp_path / "site")
    assert (code, shown, len(errors.splitlines()), seen) == (SiteError.exit_code, "", 1, [])
    assert "site 'site-1' joined no coordinator" in errors
    assert "fedct-site join" in errors


def test_a_folder_that_is_no_sites_is_named(call, tmp_path):
    code, _, errors, seen = call(tmp_path)
    assert (code, "site.toml" in errors, seen) == (SiteError.exit_code, True, [])
