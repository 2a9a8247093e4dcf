"""Where a coordinator is reached: a DNS name or an IP address, and a port."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from common.errors import UsageError

MOST_CHARACTERS = 260
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REMEDY = "Expected HOST:PORT such as fedct.example.org:8443, 192.0.2.7:8443 or [2001:db8::7]:8443"


@dataclass(frozen=True)
class Address:
    """``host``: a DNS name in lower-case ASCII, or an IP address. ``port``: 1 to 65535."""

    host: str
    port: int

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None if it is a name."""
        try:
            return ipaddress.ip_address(self.host)
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read HOST:PORT; the name's case is ignored. Raises UsageError naming the value."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]\s]+)):([0-9]{1,5})", text[: MOST_CHARACTERS + 1], re.ASCII)
    if found is None or len(text) > MOST_CHARACTERS:
        raise UsageError(f"address {text[:MOST_CHARACTERS]!r} is not HOST:PORT", _REMEDY)
    six, name, digits = found.groups()
    port = int(digits)
    host = _six(six) if six is not None else _four_or_name(name.lower())
    if host is None or not 1 <= port <= 65535:
        raise UsageError(f"address {text!r} has no valid {'host' if host is None else 'port'}", _REMEDY)
    return Address(host, port)


def address_text(text: str) -> str:
    """``str(parse_address(text))`` for a settings model, to which a bad value is a ValueError."""
    try:
        return str(parse_address(text))
    except UsageError as error:
        raise ValueError(error.message) from None


def _six(text: str) -> str | None:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return None


def _four_or_name(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        labels = text.split(".")
        sound = len(text) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
        return text if sound and not labels[-1].isdigit() else None  # RFC 1123: 256.1.1.1 is no name
