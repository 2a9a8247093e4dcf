"""The Flower bundle of a study, which holds references and settings and no code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from common.study import Study

CONFIG = """\
[project]
name = "fedct-study"
version = "1.0.0"
description = "A fedct study: settings only, no code"
license = {{ file = "LICENSE" }}
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "fedct"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = ["/README.md", "/LICENSE"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
study = "{digest}"
seed = {seed}
simulated = {simulated}
run = "{run}"
"""


def bundle_files(study: Study, seed: int, *, simulated: bool, run: str = "") -> dict[str, bytes]:
    """The files of a bundle by name, without code.

    ``run``: folder of this run under the one that the coordinator's ``FEDCT_RUN`` names; empty for that one
    itself. It goes into TOML as it is: a plain name.
    """
    config = CONFIG.format(digest=study.digest, seed=seed, simulated=str(simulated).lower(), run=run)
    readme = f"Study {study.name}, digest {study.digest}.\n"
    return {"pyproject.toml": config.encode(), "README.md": readme.encode(), "LICENSE": b"Apache-2.0\n"}


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write the bundle as the folder that ``flwr run`` packs."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
