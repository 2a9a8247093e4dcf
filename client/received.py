"""The model as a site receives it, and the parts of it that the site keeps.

::

    SITE/models/STUDY-DIGEST/
      base.safetensors     the weights that the coordinator sends once (common.models.parts)
      local.safetensors    the site's own weights after its last training, where the study has some

Every round sends the shared weights; the base is taken from disk by its digest, and one that is missing or altered is
asked for again. Local weights go nowhere: they are trained with the same noise as the others, and each step of them is
on the ledger, so keeping them between rounds costs nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from torch import nn

from client.site import Site
from common import messages
from common.errors import DataError, from_os_error
from common.files import fsync_folder, write_atomic
from common.models import parts
from common.models.parts import Vector
from common.models.resnet import Network, empty_model
from common.study import Study

_KEY = "weights"


class BaseMissing(DataError):  # noqa: N818 - the next message mends it
    """The site was not sent the base of the model and does not hold it; the next message will have it."""

    code = messages.BASE_MISSING


@dataclass(frozen=True)
class Received:
    """What came down, as float32. ``base``: None where the site should hold it, by ``base_digest``.

    ``correction``: what SCAFFOLD adds to each gradient of the shared weights, or None.
    """

    shared: Vector
    base_digest: str
    base: Vector | None = None
    correction: Vector | None = None

    @classmethod
    def whole(cls, model: nn.Module, study: Study) -> Received:
        """All of ``model``, as the first message to a site carries it."""
        base = parts.read(parts.base(model, study))
        return cls(parts.read(parts.shared(model, study)), parts.digest(base), base)


def network(site: Site, study: Study, received: Received) -> Network:
    """The study's network with the weights received, and the site's own; a base that came is kept.

    Raises DataError when they don't fit the network or are not finite, BaseMissing when the base is neither
    here nor in the message, StorageError when it can't be kept.
    """
    model = empty_model(study)
    base = received.base
    if base is not None and parts.digest(base) != received.base_digest:
        raise DataError(f"the received base of study '{study.name}' is not the one that its message names")
    kept = _folder(site, study) / "base.safetensors"
    if base is None:
        base = _read(kept)
        if base is None or parts.digest(base) != received.base_digest:
            raise BaseMissing(
                f"'{kept}' is missing or another", "Nothing: the coordinator sends it with the next round"
            )
    _fill(parts.shared(model, study), received.shared, study)
    _fill(parts.base(model, study), base, study)
    if received.base is not None:
        _write(kept, received.base)
    own = _read(_folder(site, study) / "local.safetensors") if study.model.local != "none" else None
    if own is not None:
        _fill(parts.local(model, study), own, study)
    return model


def keep_local(site: Site, study: Study, model: nn.Module) -> None:
    """Keep the site's own weights for the next round, if the study has some."""
    own = parts.local(model, study)
    if own:
        _write(_folder(site, study) / "local.safetensors", parts.read(own))


def _fill(part: list[nn.Parameter], vector: Vector, study: Study) -> None:
    try:
        parts.write(part, vector)
    except ValueError as error:
        raise DataError(f"the received model does not fit study '{study.name}': {error}") from None
    if not np.isfinite(vector).all():
        raise DataError(f"the received model of study '{study.name}' is not finite")


def _folder(site: Site, study: Study) -> Path:
    return site.models_dir / study.digest


def _read(path: Path) -> Vector | None:
    """The vector in ``path``; None when there is none that can be read."""
    try:
        return safetensors.numpy.load(path.read_bytes())[_KEY]
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _write(path: Path, vector: Vector) -> None:
    """Keep a vector. Raises StorageError, as on a full disk."""
    try:
        for folder in (path.parent.parent, path.parent):
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
                fsync_folder(folder.parent)
        write_atomic(path, safetensors.numpy.save({_KEY: vector}))
    except OSError as error:
        raise from_os_error(error) from None
