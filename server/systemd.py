"""A systemd service for the coordinator's daemon: SuperLink, executor and the runs' processes, as a user of its own.

It listens on the port of its address and on the loopback port for operators, and nowhere else; it writes its folder and
nothing else; it sees no device, no other process, and not the authority's key, which signs certificates and which
``init`` and ``renew`` alone need. Operators' commands run as the same user.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import CoordinatorError
from common.pki.address import parse_address
from common.systemd import binds, command_line, fits, hardened, optional, word
from server.coordinator import Coordinator

USER = "fedct-coordinator"
UNIT = "fedct-coordinator.service"
PRIVILEGED_PORTS = 1024  # below, listening needs a capability


def unit(coordinator: Coordinator, bind: str, program: Path | None = None) -> str:
    """The unit file. ``bind``: address to listen on for sites. ``program``: fedct-coordinator; by default the one
    beside this Python. Raises CoordinatorError when a unit file can't hold the folder's path.
    """
    folder = coordinator.folder.resolve()
    if not fits(folder):
        raise CoordinatorError(f"{str(folder)!r} has a character that a unit file can't hold", "Rename it")
    command = program or Path(sys.executable).parent / "fedct-coordinator"
    sites, operators = (parse_address(text).port for text in (coordinator.config.address, coordinator.config.control))
    once = "\n".join(f"#   {' '.join(map(word, line))}" for line in preparation(folder))
    capability = "CAP_NET_BIND_SERVICE" if sites < PRIVILEGED_PORTS else ""
    return f"""\
# coordinator: it serves hospitals and runs studies
# Once, as root, before the first start:
{once}
[Unit]
Description=fedct coordinator
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
User={USER}
Group={USER}
ExecStart={command_line([command, "start", "--dir", folder, "--bind", bind])}
Restart=always
RestartSec=5
TimeoutStopSec=60
KillMode=mixed
LimitNOFILE=65536
{hardened(capability)}
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
{binds({sites, operators}, family="")}
ReadWritePaths={word(folder)}
InaccessiblePaths={optional([folder / "ca.key"])}

[Install]
WantedBy=multi-user.target
"""


def preparation(folder: Path) -> list[list[str]]:
    """Commands that root types once: make the user, and give it the folder alone."""
    return [
        ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", USER],
        ["chown", "-R", f"{USER}:{USER}", str(folder)],
        ["chmod", "-R", "u+rwX,go=", str(folder)],
    ]
