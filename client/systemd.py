"""Two systemd services for one site: the node, which has the network, and the trainer, which has the patients.

Each runs as a user of its own (``NODE_USER``, ``TRAINER_USER``) in one group, whose only use is the secret and the
contact note that they share. What keeps them apart, twice: file modes (``preparation``), and systemd's sandbox.

* The node can't see the data folder, the label table, the cohorts, the ledger or the site's key.
* The trainer's packets reach 127.0.0.1 and nothing else, by a filter on its cgroup (IPAddressDeny=; Linux 4.11 with
  CONFIG_CGROUP_BPF, and systemd logs a warning where that is missing). Sockets of other daemons on this machine that
  would resolve names or send for it are hidden. What else listens on loopback, it can reach.
* The trainer may not write the data, nor read the node's key.
* Memory that is written is never executed at the node. The trainer needs that: oneDNN compiles kernels as it runs, and
  without it torch's convolutions fail ("could not create a primitive").
"""

from __future__ import annotations

import sys
from pathlib import Path

from client.site import NODE_KEY, Site
from common.errors import SiteError
from common.systemd import binds, command_line, fits, hardened, optional, word

GROUP, NODE_USER, TRAINER_USER = "fedct", "fedct-node", "fedct-trainer"
NODE_UNIT, TRAINER_UNIT = "fedct-node.service", "fedct-trainer.service"
# Daemons that resolve names or carry messages for whoever reaches their socket
_GO_BETWEENS = ("/run/dbus", "/run/systemd/resolve", "/run/nscd", "/run/avahi-daemon")


def units(site: Site, program: Path | None = None) -> dict[str, str]:
    """The unit files by name. ``program``: fedct-site; by default the one beside this Python.

    Raises SiteError when the site joined nobody or has no fixed port for the halves to meet on.
    """
    _check(site)
    command = program or Path(sys.executable).parent / "fedct-site"
    return {NODE_UNIT: _node(site, command), TRAINER_UNIT: _trainer(site, command)}


def preparation(
    site: Site, *, node: str = NODE_USER, trainer: str = TRAINER_USER, group: str = GROUP
) -> list[list[str]]:
    """Commands that root types once, after the users were made: who owns what, and who may read it."""
    folder, home = str(site.folder), str(site.node_dir)
    return [
        ["chown", "-R", f"{trainer}:{group}", folder],
        ["chmod", "-R", "u+rwX,go=", folder],
        ["chmod", "0710", folder],
        ["chmod", "0640", str(site.folder / "site.toml")],
        ["chown", "-R", f"{node}:{group}", home],
        ["chmod", "-R", "u+rwX,go=", home],
        ["chmod", "0750", home],
    ]


def users() -> list[list[str]]:
    """Commands that make the group and the two users."""
    make = ["useradd", "--system", "--gid", GROUP, "--no-create-home", "--shell", "/usr/sbin/nologin"]
    return [["groupadd", "--system", GROUP], [*make, NODE_USER], [*make, TRAINER_USER]]


def _check(site: Site) -> None:
    where = site.folder / "site.toml"
    if not site.joined:
        raise SiteError(f"site '{site.name}' joined no coordinator", "Join one with 'fedct-site join'")
    if not site.config.service.port:
        raise SiteError(
            f"'{where}' has service.port = 0, so node and trainer can't find each other",
            "Set it to a port of this machine that nothing else uses, such as 9101",
        )
    for path in (site.folder, site.node_dir, site.dicom_dir, site.labels_file, site.key_file):
        if not fits(path):
            raise SiteError(f"{str(path)!r} has a character that a unit file can't hold", "Rename it")


def _node(site: Site, program: Path) -> str:
    hidden = [site.dicom_dir, site.labels_file, site.key_file, site.cohorts_dir, site.models_dir, site.runner_dir]
    hidden += [site.folder / name for name in ("approved", "scan.sqlite", "audit.log", "audit.head")]
    hidden += [site.folder / f"ledger.{suffix}" for suffix in ("sqlite", "sqlite-wal", "sqlite-shm", "head")]
    ports = {site.config.service.port}
    own = f"""\
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{binds(ports)}
ReadWritePaths={word(site.node_dir)}
InaccessiblePaths={optional(hidden)}"""
    return _unit(
        site, "node: it has the network and can't read patients", NODE_USER, _serve(site, program, "node"), own, ""
    )


def _trainer(site: Site, program: Path) -> str:
    hidden = [site.node_dir / NODE_KEY, *map(Path, _GO_BETWEENS)]
    ports = {site.config.service.metrics_port} - {0}
    own = f"""\
# No MemoryDenyWriteExecute: torch compiles kernels as it runs, and fails without.
IPAddressDeny=any
IPAddressAllow=127.0.0.1
RestrictAddressFamilies=AF_UNIX AF_INET
{binds(ports)}
ReadWritePaths={word(site.folder)}
ReadOnlyPaths={optional([site.node_dir, site.dicom_dir, site.labels_file])}
InaccessiblePaths={optional(hidden)}"""
    words = "trainer: it reads patients and has no network but loopback"
    return _unit(site, words, TRAINER_USER, _serve(site, program, "runner"), own, f"\nWants={NODE_UNIT}")


def _unit(site: Site, words: str, user: str, command: str, own: str, more: str) -> str:
    once = "\n".join(f"#   {' '.join(map(word, line))}" for line in [*users(), *preparation(site)])
    after = f"network-online.target {NODE_UNIT}" if more else "network-online.target"
    return f"""\
# {words}
# Once, as root, before the first start:
{once}
[Unit]
Description=fedct site {site.name}, {words.split(":", maxsplit=1)[0]}
After={after}
Wants=network-online.target{more}

[Service]
Type=exec
User={user}
Group={GROUP}
ExecStart={command}
Restart=always
RestartSec=5
TimeoutStopSec=30
KillMode=mixed
{hardened()}
{own}

[Install]
WantedBy=multi-user.target
"""


def _serve(site: Site, program: Path, part: str) -> str:
    metrics = ["--metrics-port", "0"] if part == "node" else []  # one endpoint: the trainer's sees all
    arguments: list[str | Path] = [program, "serve", "--part", part, "--site", site.folder, *metrics]
    return command_line(arguments)
