from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from client.cli import main
from client.site import CoordinatorSettings, DataSettings, ServiceSettings, Site, SiteConfig, create_site, load_site
from client.systemd import NODE_UNIT, TRAINER_UNIT, units
from common.errors import SiteError
from common.toml import table

SETTINGS = CoordinatorSettings(address="ct.example:8443", study_key="a" * 64, invitation="b" * 64)
WORST_EXPOSURE = 20  # of 100; systemd calls up to 20 "OK"


@pytest.fixture
def make(tmp_path):
    def site(name: str = "site", dicom: str = "/data/ct", port: int = 9101, metrics: int = 0) -> Site:
        config = SiteConfig(name="site-1", coordinator=SETTINGS, data=DataSettings(dicom=dicom))
        folder = create_site(tmp_path / name, config).folder
        service = ServiceSettings(port=port, metrics_port=metrics)
        with (folder / "site.toml").open("a") as file:
            file.write("\n".join(["", *table("service", service.model_dump())]) + "\n")
        return load_site(folder)

    return site


@pytest.fixture
def program(tmp_path):
    """A fedct-site that is there and can be run."""
    path = tmp_path / "bin" / "fedct-site"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def values(unit: str, key: str) -> list[str]:
    return [line.split("=", 1)[1] for line in unit.splitlines() if line.startswith(f"{key}=")]


def words(unit: str, key: str) -> set[str]:
    return {word.lstrip("-") for value in values(unit, key) for word in value.split()}


def test_node_and_trainer_are_two_users_of_one_group(make):
    node, trainer = units(make()).values()
    assert (values(node, "User"), values(trainer, "User")) == (["fedct-node"], ["fedct-trainer"])
    assert values(node, "Group") == values(trainer, "Group") == ["fedct"]
    assert "--part node" in values(node, "ExecStart")[0]
    assert "--part runner" in values(trainer, "ExecStart")[0]


def test_the_node_sees_nothing_of_the_patients_and_may_write_its_own_folder_alone(make):
    site = make()
    node = units(site)[NODE_UNIT]
    hidden = {
        "/data/ct",
        *(str(site.folder / n) for n in ("labels.csv", "cohorts", "site.key", "ledger.sqlite", "audit.log")),
    }
    assert hidden <= words(node, "InaccessiblePaths")
    assert values(node, "ReadWritePaths") == [str(site.node_dir)]
    assert values(node, "MemoryDenyWriteExecute") == ["yes"]


def test_the_trainer_has_loopback_alone_and_may_not_write_the_data_nor_read_the_nodes_key(make):
    site = make()
    trainer = units(site)[TRAINER_UNIT]
    assert (values(trainer, "IPAddressDeny"), values(trainer, "IPAddressAllow")) == (["any"], ["127.0.0.1"])
    assert "/run/systemd/resolve" in words(trainer, "InaccessiblePaths")  # who resolves names for it sends for it
    assert {"/data/ct", str(site.node_dir)} <= words(trainer, "ReadOnlyPaths")
    assert str(site.node_dir / "node.key") in words(trainer, "InaccessiblePaths")


def test_a_port_is_open_only_where_it_is_listened_on(make):
    node, trainer = units(make(metrics=9102)).values()
    assert values(node, "SocketBindAllow") == ["ipv4:tcp:9101"]
    assert values(trainer, "SocketBindAllow") == ["ipv4:tcp:9102"]
    assert values(node, "SocketBindDeny") == values(trainer, "SocketBindDeny") == ["any"]


@pytest.mark.parametrize(
    ("name", "dicom"), [("site", "dicom"), ("a site's folder", "/data/c t"), ("100% 'sure\" $HOME;", "a\\b")]
)
def test_systemds_own_verifier_has_nothing_to_say(make, program, tmp_path, name, dicom):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    paths = [tmp_path / unit for unit in (NODE_UNIT, TRAINER_UNIT)]
    for path, text in zip(paths, units(make(name, dicom), program).values(), strict=True):
        path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_verifier_would_have_something_to_say(make, program, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / NODE_UNIT
    path.write_text(units(make(), program)[NODE_UNIT].replace("ReadWritePaths=", "ReadWritePath="))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, timeout=120)
    assert "ReadWritePath" in done.stderr


def test_systemd_finds_little_exposed(make, program, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for name, text in units(make(), program).items():
        path = tmp_path / name
        path.write_text(text)
        command = [
            "systemd-analyze",
            "security",
            "--offline=yes",
            f"--threshold={WORST_EXPOSURE}",
            "--json=short",
            path,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        exposed = [check["name"] for check in json.loads(done.stdout) if not check["set"]]
        assert done.returncode == 0, exposed


def test_no_word_of_the_site_becomes_another_setting(make):
    site = make("a %h $X site")
    for unit in units(site).values():
        (line,) = values(unit, "ExecStart")
        assert '"' + str(site.folder).replace("%", "%%").replace("$", "$$") + '"' in line


def test_a_folder_that_a_unit_file_can_not_hold_is_refused(make):
    with pytest.raises(SiteError, match="unit file"):
        units(make("two\nlines"))


def test_without_a_port_to_meet_on_there_are_no_units(make):
    with pytest.raises(SiteError, match=r"service\.port = 0"):
        units(make(port=0))


def test_the_command_writes_both_files_or_prints_them(make, typed, tmp_path):
    site = make()
    (tmp_path / "units").mkdir()
    code, _, _ = typed(main, "fedct-site")("systemd", "--site", site.folder, "--out", tmp_path / "units")
    written = {path.name: path.read_text() for path in (tmp_path / "units").iterdir()}
    assert (code, written) == (0, units(site))
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "units").iterdir()} == {0o644}
    code, shown, _ = typed(main, "fedct-site")("systemd", "--site", site.folder)
    assert code == 0
    assert all(f"# {name}\n{text}" in shown for name, text in units(site).items())


def test_the_program_is_the_one_beside_this_python(make):
    (command,) = values(units(make())[NODE_UNIT], "ExecStart")
    assert Path(command.split()[0]).name == "fedct-site"
