"""The site folder: one hospital's truth, the same for a simulated and a deployed site.

::

    SITE/
      site.key         the site's secret: pseudonyms, the scan index and encrypted cohorts hang on it (client.keys)
      scan.sqlite      what the last scan found in each file, encrypted (client.ingest.index)
      site.toml        name, where DICOM and labels lie, and the site's policy
      cohorts/         ingested cohorts, one folder each (client.ingest)
      approved/        one canonical study a file, named by digest: what the site agreed to
      models/          of each study that it took part in, what it need not be sent again, or keeps (client.received)
      ledger.sqlite    privacy reserved and spent (client.ledger), with its chain head in ledger.head
      node/            once joined: the node's key and the coordinator's authority (client.join)
      runner/          once served: what the runner writes beside (client.node)
      audit.log        hash-chained record of every release and refusal (client.audit_log), head in audit.head

The limits in ``[policy]`` are the hospital's; nothing that the coordinator sends can change them.
Their defaults are strict: a key that is left out never permits more.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.errors import SiteError, StudyError, TrustError
from common.files import fsync_folder, write_atomic
from common.pki.address import address_text
from common.pki.signature import read_signature, signature_file, verify_study
from common.study import Study, describe, study_from_json
from common.subgroups import Attribute
from common.toml import to_toml

NODE_KEY = "node.key"
AUTHORITY = "authority.crt"

DIGEST = re.compile(r"[0-9a-f]{64}")
WHOLE_DAY = "00:00-24:00"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class DataSettings(_Frozen):
    """Where the hospital's data lie; relative paths are taken from the site folder.

    ``encrypt``: cohorts are stored encrypted with the site key. ``key_file``: where that key lies (see
    ``client.keys``); it may be another disk, which is what makes encryption worth having.
    """

    dicom: str = "dicom"
    labels: str = "labels.csv"
    encrypt: bool = False
    key_file: str = "site.key"


class PolicySettings(_Frozen):
    """What may happen at this site.

    ``max_epsilon`` at ``max_delta``: the budget of a patient of this cohort for life, over all studies.
    ``evaluation``: how counts over held-out patients leave: ``withheld``, ``noised`` (Gaussian
    mechanism with ``evaluation_sigma`` times the sensitivity, charged to the ledger), or ``exact``.
    ``subgroups``: by what an evaluation may be broken down (``common.subgroups``): ingest then keeps these bands of each
    patient, and the final evaluation of a study that asks leaves with counts for each band. Where counts leave exactly,
    bands of fewer than ``subgroup_minimum`` held-out patients leave as "not stated".
    ``max_steps``: training steps of a whole study. ``max_parameters``: weights of its network.
    ``max_rounds_a_day``: rounds, of all studies, begun within any 24 hours. ``hours``: when a round may begin, by the
    site's clock, "HH:MM-HH:MM"; over midnight if the second is the earlier, and 24:00 is the end of the day.
    """

    max_epsilon: float = Field(default=8.0, gt=0, le=1000)
    max_delta: float = Field(default=1e-5, gt=0, lt=0.1)
    allow_without_privacy: bool = False
    evaluation: Literal["withheld", "noised", "exact"] = "noised"
    evaluation_sigma: float = Field(default=10.0, ge=0.01, le=1e6)
    subgroups: tuple[Attribute, ...] = Field(default=(), strict=False)
    subgroup_minimum: int = Field(default=10, ge=1, le=1_000_000)
    max_steps: int = Field(default=10_000, ge=1, le=1_000_000_000)
    max_parameters: int = Field(default=30_000_000, ge=1, le=1_000_000_000)
    max_rounds_a_day: int = Field(default=100, ge=1, le=100_000)
    hours: str = Field(default=WHOLE_DAY, pattern=r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$")

    @field_validator("hours")
    @classmethod
    def _some_hours(cls, text: str) -> str:
        start, end = text.split("-")
        if start == end:
            raise ValueError(f"expected two different times; {WHOLE_DAY} is the whole day")
        return text


class CoordinatorSettings(_Frozen):
    """Which coordinator the site joined; ``fedct-site join`` writes it. All empty: none.

    ``study_key``: the Ed25519 key that signs its studies, 64 hex digits. ``invitation``: digest of the invitation.
    ``node``: folder of the node's key and of the coordinator's authority; elsewhere, for a node of another user.
    """

    address: str = ""
    study_key: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    invitation: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    node: str = Field(default="node", min_length=1)

    @model_validator(mode="after")
    def _complete(self) -> CoordinatorSettings:
        given = [bool(value) for value in (self.address, self.study_key, self.invitation)]
        if any(given) and not all(given):
            raise ValueError("address, study_key and invitation go together; expected all three or none")
        if self.address:
            address_text(self.address)
        return self


class ServiceSettings(_Frozen):
    """How the site's services run on its machine.

    ``port``: of loopback, where node and runner meet; 0: any free one, when one ``serve`` runs both. ``metrics_port``:
    of loopback, for health and metrics; 0: none. ``proxy``: the HTTPS proxy on the way to the coordinator; empty: what
    the environment says.
    """

    port: int = Field(default=0, ge=0, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    proxy: str = Field(default="", pattern=r"^(https?://[^\s/]+/?)?$")


class SiteConfig(_Frozen):
    """Content of ``site.toml``. ``cohort`` names the patients over whom privacy composes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    title: str = Field(default="", max_length=200)
    simulated: bool = False
    cohort: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    data: DataSettings = DataSettings()
    policy: PolicySettings = PolicySettings()
    coordinator: CoordinatorSettings = CoordinatorSettings()
    service: ServiceSettings = ServiceSettings()

    @model_validator(mode="after")
    def _simulated_or_joined(self) -> SiteConfig:
        if self.simulated and self.coordinator.address:
            raise ValueError("simulated is true, and [coordinator] names a coordinator; expected one of the two")
        return self


@dataclass(frozen=True)
class Site:
    """A site folder that exists and whose ``site.toml`` is valid."""

    folder: Path
    config: SiteConfig

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def dicom_dir(self) -> Path:
        return self.folder / self.config.data.dicom

    @property
    def labels_file(self) -> Path:
        return self.folder / self.config.data.labels

    @property
    def key_file(self) -> Path:
        return self.folder / self.config.data.key_file

    @property
    def cohorts_dir(self) -> Path:
        return self.folder / "cohorts"

    @property
    def models_dir(self) -> Path:
        return self.folder / "models"

    @property
    def joined(self) -> bool:
        """Whether the site joined a coordinator."""
        return bool(self.config.coordinator.address)

    @property
    def node_dir(self) -> Path:
        return self.folder / self.config.coordinator.node

    @property
    def runner_dir(self) -> Path:
        return self.folder / "runner"

    @property
    def ledger_file(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.log"

    def is_approved(self, study: Study) -> bool:
        """Whether the site approved exactly this study: the stored canonical text must match.

        And, unless the site is a simulated one, the signature that was stored with it must be the coordinator's.
        """
        path = self._approval(study)
        try:
            if path.read_text(encoding="utf-8") != study.canonical_json():
                return False
            if not self.config.simulated:
                self.check_signature(study, read_signature(signature_file(path)))
        except (OSError, UnicodeDecodeError, TrustError):
            return False
        return True

    def approve(self, study: Study, signature: str = "") -> None:
        """Record the site's agreement to this study.

        Raises TrustError, unless the site is a simulated one, if ``signature`` is not that of the study by the
        coordinator that the site joined.
        """
        path = self._approval(study)
        self.check_signature(study, signature)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not self.config.simulated:
            write_atomic(signature_file(path), signature.encode())
        write_atomic(path, study.canonical_json().encode())

    def check_signature(self, study: Study, signature: str) -> None:
        """Raise TrustError unless the coordinator that this site joined signed the study.

        A simulated site has no coordinator, and asks for none; no other site does without.
        """
        if self.config.simulated:
            return
        if not self.joined:
            raise TrustError(
                f"site '{self.name}' joined no coordinator, so nobody's signature counts here",
                "Join one with 'fedct-site join'",
            )
        verify_study(study, signature, self.config.coordinator.study_key)

    def withdraw(self, study: Study) -> bool:
        """Take the agreement back; whether there was one. From then on the study does not run here."""
        path = self._approval(study)
        if not path.exists():
            return False
        path.unlink()
        fsync_folder(path.parent)
        signature_file(path).unlink(missing_ok=True)
        return True

    def _approval(self, study: Study) -> Path:
        return self.folder / "approved" / f"{study.digest}.json"

    def has_approved(self, digest: str) -> bool:
        """``is_approved`` for the study of this digest (64 hex digits; anything else is not approved)."""
        if DIGEST.fullmatch(digest) is None:
            return False
        try:
            study = study_from_json((self.folder / "approved" / f"{digest}.json").read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, StudyError):
            return False
        return study.digest == digest and self.is_approved(study)


def load_site(folder: Path) -> Site:
    """Open a site folder. Raises SiteError naming the file, key and value."""
    path = folder / "site.toml"
    if not folder.is_dir():
        raise SiteError(f"site folder '{folder}' does not exist", "Give a folder that holds a site.toml")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SiteError(f"'{path}' does not exist", "Give a folder that holds a site.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SiteError(f"'{path}' can't be read: {error}", "Correct the file") from None
    try:
        return Site(folder.resolve(), SiteConfig.model_validate(content))
    except ValidationError as error:
        raise SiteError(describe(error, str(path)), "Correct the file") from None


def load_sites(root: Path) -> list[Site]:
    """All site folders directly under ``root``, by name. Raises SiteError if there is none or a name is used twice."""
    if not root.is_dir():
        raise SiteError(
            f"sites folder '{root}' does not exist", "Make one with 'fedct-sim phantom' or 'fedct-sim split'"
        )
    sites = [load_site(path.parent) for path in sorted(root.glob("*/site.toml"))]
    if not sites:
        raise SiteError(
            f"'{root}' holds no site folder", "Expected folders with a site.toml, as 'fedct-sim split' makes them"
        )
    names = [site.name for site in sites]
    for name in names:
        if names.count(name) > 1:
            raise SiteError(f"two sites under '{root}' are named '{name}'", "Give each site.toml its own name")
    return sorted(sites, key=lambda site: site.name)


def create_site(folder: Path, config: SiteConfig) -> Site:
    """Make a new site folder (mode 0700) with its ``site.toml``. Raises SiteError if it exists."""
    path = folder / "site.toml"
    if path.exists():
        raise SiteError(f"'{path}' exists already", "Choose an empty folder")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    hidden = {"service"} if config.coordinator.address else {"service", "coordinator"}
    write_atomic(path, to_toml(config.model_dump(mode="json", exclude=hidden)).encode())
    return Site(folder.resolve(), config)
