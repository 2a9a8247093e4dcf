"""The coordinator's certificate authority on disk: made once, renewed from, looked at.

The root is made once, with the folder: a new one would cut off every site. ``renew`` replaces the server's
certificate alone, for the same key, so a single file changes, whole or not at all. Only ``create`` and ``renew``
need the passphrase; between them ``ca.key`` may lie on another disk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from common.errors import CoordinatorError, from_os_error
from common.files import whole_folder, write_atomic
from common.pki import certificates, keys
from common.pki.address import Address, parse_address
from common.pki.invitation import coordinator_fingerprint
from common.toml import to_toml
from server.coordinator import SETTINGS, Coordinator, CoordinatorConfig, open_coordinator, read_file
from server.registry import Registry


@dataclass(frozen=True)
class Expiry:
    """When one certificate ends. ``days``: whole days left, negative when it has ended."""

    name: str
    ends: datetime
    days: int

    @property
    def warning(self) -> str:
        """What to say of it; "" while nothing needs to be done."""
        if self.days >= certificates.WARN_DAYS:
            return ""
        remedy = (
            "run 'fedct-coordinator renew'" if self.name == "server" else "make a new coordinator, and invite again"
        )
        state = f"ends in {self.days} days" if self.days >= 0 else "has ended, and no site can connect"
        return f"the {self.name}'s certificate {state}: {remedy}"


def create(folder: Path, title: str, address: Address, passphrase: str, now: datetime) -> Coordinator:
    """Make a coordinator's folder, mode 0700, whole or not at all.

    Raises CoordinatorError if ``folder`` holds anything, UsageError on a short passphrase.
    """
    control = Address("127.0.0.1", address.port + 1 if address.port < 65535 else address.port - 1)
    config = CoordinatorConfig(title=title, address=str(address), control=str(control))
    contents = _new_keys(config, passphrase, now)
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise CoordinatorError(f"'{folder}' exists already", "Give a new folder; a coordinator is made once")
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder.absolute()) as partial:
            for name, content in contents.items():
                write_atomic(partial / name, content)
            Registry(partial / "registry.sqlite").create()
    except OSError as error:
        raise from_os_error(error) from None
    return open_coordinator(folder)


def renew(coordinator: Coordinator, passphrase: str, now: datetime) -> Expiry:
    """A new certificate for the server's key and the present address. Raises TrustError on a wrong passphrase."""
    authority = _certificate(coordinator.authority_file)
    key = keys.read_locked_key(read_file(coordinator.authority_key_file), passphrase)
    server = _certificate(coordinator.server_file).public_key()
    address = parse_address(coordinator.config.address)
    made = certificates.make_server(authority, key, server, address, now)  # type: ignore[arg-type] # we made its key
    write_atomic(coordinator.server_file, certificates.certificate_text(made).encode())
    return _expiry("server", made, now)


def expiries(coordinator: Coordinator, now: datetime) -> tuple[Expiry, ...]:
    """How long each certificate lasts."""
    files = {"server": coordinator.server_file, "authority": coordinator.authority_file}
    return tuple(_expiry(name, _certificate(path), now) for name, path in files.items())


def fingerprint(coordinator: Coordinator) -> str:
    """What sites compare by telephone: authority and study key together."""
    authority = read_file(coordinator.authority_file).decode("utf-8", "replace")
    return coordinator_fingerprint(authority, keys.study_public(coordinator.study_key()))


def _new_keys(config: CoordinatorConfig, passphrase: str, now: datetime) -> Mapping[str, bytes]:
    """Every file of a new folder but the registry."""
    authority_key, server_key = keys.new_p384_key(), keys.new_p384_key()
    locked = keys.locked_key_bytes(authority_key, passphrase)
    authority = certificates.make_authority(config.title, authority_key, now)
    server = certificates.make_server(
        authority, authority_key, server_key.public_key(), parse_address(config.address), now
    )
    return {
        "ca.key": locked,
        "ca.crt": certificates.certificate_text(authority).encode(),
        "server.key": keys.plain_key_bytes(server_key),
        "server.crt": certificates.certificate_text(server).encode(),
        "study.key": keys.study_key_bytes(keys.new_study_key()),
        SETTINGS: to_toml(config.model_dump(mode="json")).encode(),
    }


def _certificate(path: Path) -> x509.Certificate:
    return certificates.read_certificate(read_file(path).decode("utf-8", "replace"))


def _expiry(name: str, certificate: x509.Certificate, now: datetime) -> Expiry:
    return Expiry(name, certificate.not_valid_after_utc, certificates.days_left(certificate, now))
