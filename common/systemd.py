"""What the unit files of all our services share: the sandbox, and how words are spelled in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path


def hardened(capability: str = "") -> str:
    """Settings of [Service] that every service takes; what it may write, reach and see is its own.

    ``capability``: the only one that it has, "" for none.
    """
    return f"""\
NoNewPrivileges=yes
CapabilityBoundingSet={capability}
AmbientCapabilities={capability}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@resources @privileged
SystemCallErrorNumber=EPERM
UMask=0077
LimitCORE=0"""


def fits(path: Path) -> bool:
    """Whether a unit file can hold the path: it has no control character."""
    return all(ord(character) >= 32 for character in str(path))


def command_line(arguments: Sequence[str | Path]) -> str:
    """The value of ExecStart= for a program and its arguments; no variable is put in."""
    return " ".join(word(argument).replace("$", "$$") for argument in arguments)


def binds(ports: Iterable[int], family: str = "ipv4:") -> str:
    """Settings that let a service listen on these ports of TCP and nowhere else. ``family``: "" for IPv6 as well."""
    allowed = [f"SocketBindAllow={family}tcp:{port}" for port in sorted(ports)]
    return "\n".join([*allowed, "SocketBindDeny=any"])


def optional(paths: Sequence[Path]) -> str:
    """Paths of which any may be missing."""
    return " ".join(word(f"-{path}") for path in paths)


def word(value: str | Path) -> str:
    """One word of a unit file (systemd.syntax): quoted where need be, and no specifier."""
    text = str(value).replace("%", "%%")
    if text and not any(character in " \t\"'\\;" for character in text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
