"""The coordinator's folder: who it is, its keys, and which sites it knows.

::

    DIR/
      coordinator.toml   title and addresses
      ca.crt, ca.key     the authority; its key is encrypted, and may be kept elsewhere between uses
      server.crt, server.key   for TLS
      study.key          signs studies and invitations; not encrypted, so only its owner may read it
      registry.sqlite    invitations, sites and their standing (server.registry)
      superlink/, runs/  once started: Flower's state, and a folder a run (server.daemon)
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from common.errors import CoordinatorError, from_os_error
from common.flower_env import LOOPBACK
from common.pki.address import address_text, parse_address
from common.pki.documents import printable
from common.pki.keys import read_study_key
from common.study import describe

SETTINGS = "coordinator.toml"
COORDINATOR_VARIABLE = "FEDCT_COORDINATOR"  # where the ServerApp finds the folder of the coordinator whose run it is


class CoordinatorConfig(BaseModel):
    """Content of ``coordinator.toml``.

    ``address``: HOST:PORT at which sites reach it. ``control``: 127.0.0.1:PORT, for operator and executor.
    ``tracking``: programs for which runs write their figures to a folder of their own (``server.tracking``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    title: str = Field(min_length=1, max_length=200)
    address: str
    control: str
    tracking: tuple[Literal["tensorboard", "mlflow"], ...] = Field(default=(), strict=False)

    @field_validator("title")
    @classmethod
    def _printable(cls, text: str) -> str:
        return printable(text)

    @field_validator("address", "control")
    @classmethod
    def _address(cls, text: str) -> str:
        return address_text(text)

    @field_validator("control")
    @classmethod
    def _loopback(cls, text: str) -> str:
        host = parse_address(text)
        if host.host != LOOPBACK:  # where the operator's listener is, and nowhere else
            raise ValueError(f"expected {LOOPBACK} and a port, such as {LOOPBACK}:8444")
        return text


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder whose ``coordinator.toml`` is valid."""

    folder: Path
    config: CoordinatorConfig

    @property
    def authority_file(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def authority_key_file(self) -> Path:
        return self.folder / "ca.key"

    @property
    def server_file(self) -> Path:
        return self.folder / "server.crt"

    @property
    def server_key_file(self) -> Path:
        return self.folder / "server.key"

    @property
    def study_key_file(self) -> Path:
        return self.folder / "study.key"

    @property
    def registry_file(self) -> Path:
        return self.folder / "registry.sqlite"

    def study_key(self) -> Ed25519PrivateKey:
        """The key that signs studies and invitations. Raises CoordinatorError or TrustError."""
        return read_study_key(read_file(self.study_key_file))


def open_coordinator(folder: Path) -> Coordinator:
    """Open a coordinator's folder. Raises CoordinatorError naming file, key and value."""
    path = folder / SETTINGS
    try:
        content = tomllib.loads(read_file(path).decode("utf-8"))
        return Coordinator(folder.resolve(), CoordinatorConfig.model_validate(content))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CoordinatorError(f"'{path}' can't be read: {error}", "Correct the file") from None
    except ValidationError as error:
        raise CoordinatorError(describe(error, str(path)), "Correct the file") from None


def read_file(path: Path) -> bytes:
    """A file of the folder. Raises CoordinatorError if it does not exist, StorageError if it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CoordinatorError(
            f"'{path}' does not exist",
            "Make a coordinator with 'fedct-coordinator init', or give its folder with --dir",
        ) from None
    except OSError as error:
        raise from_os_error(error) from None
