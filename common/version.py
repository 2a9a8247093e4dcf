"""The release installed here, and the versions of what it stands on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("fedct")
except PackageNotFoundError:  # run from an unpacked tree
    VERSION = "0.0.0"


def versions() -> dict[str, str]:
    """Version of each package that a result depends on."""
    packages = ("flwr", "torch", "torchvision", "opacus", "dp-accounting", "pydicom", "numpy", "scipy")
    return {"fedct": VERSION, "python": platform.python_version(), **{name: version(name) for name in packages}}
