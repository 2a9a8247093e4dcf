"""The site folder: one hospital's truth, the same for a simulated and a deployed site.

::

    SITE/
      site.key         the site's secret: pseudonyms, the scan index and encrypted cohorts hang on it (client.keys)
      scan.sqlite      what the last scan found in each file, encrypted (client.ingest.index)
      site.toml        name, where DICOM and labels lie, and the site's policy
      cohorts/         ingested cohorts, one folder each (client.ingest)
      approved/        one canonical study a file, named by digest: what the site agreed to
      ledger.sqlite    privacy reserved and spent (client.ledger), with its chain head in ledger.head
      audit.log        hash-chained record of every release and refusal (client.audit_log), head in audit.head

The limits in ``[policy]`` are the hospital's; nothing that the coordinator sends can change them.
Their defaults are strict: a key that is left out never permits more.
"""

from __future__ import annotations

import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import SiteError
from common.files import write_atomic
from common.study import Study, describe


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
    """

    max_epsilon: float = Field(default=8.0, gt=0, le=1000)
    max_delta: float = Field(default=1e-5, gt=0, lt=0.1)
    allow_without_privacy: bool = False
    evaluation: Literal["withheld", "noised", "exact"] = "noised"
    evaluation_sigma: float = Field(default=10.0, ge=0.01, le=1e6)


class SiteConfig(_Frozen):
    """Content of ``site.toml``. ``cohort`` names the patients over whom privacy composes."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    title: str = Field(default="", max_length=200)
    simulated: bool = False
    cohort: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    data: DataSettings = DataSettings()
    policy: PolicySettings = PolicySettings()


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
    def ledger_file(self) -> Path:
        return self.folder / "ledger.sqlite"

    @property
    def audit_file(self) -> Path:
        return self.folder / "audit.log"

    def is_approved(self, study: Study) -> bool:
        """Whether the site approved exactly this study: the stored canonical text must match."""
        path = self.folder / "approved" / f"{study.digest}.json"
        try:
            return path.read_text(encoding="utf-8") == study.canonical_json()
        except (OSError, UnicodeDecodeError):
            return False

    def approve(self, study: Study) -> None:
        """Record the site's agreement to this study."""
        folder = self.folder / "approved"
        folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(folder / f"{study.digest}.json", study.canonical_json().encode())


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
    write_atomic(path, _to_toml(config).encode())
    return Site(folder.resolve(), config)


def _to_toml(config: SiteConfig) -> str:
    """``site.toml`` of a configuration: top-level keys, then one table a section."""
    plain: list[str] = []
    tables: list[str] = []
    for key, value in config.model_dump(mode="json").items():
        if isinstance(value, dict):
            tables += ["", f"[{key}]", *(f"{k} = {_scalar(v)}" for k, v in value.items())]
        else:
            plain.append(f"{key} = {_scalar(value)}")
    return "\n".join([*plain, *tables]) + "\n"


def _scalar(value: str | float | bool) -> str:
    """A TOML scalar. JSON spells them the same way but for two: TOML knows no surrogate pairs, and escapes DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
