"""SCAFFOLD (Karimireddy et al. 2020, option II) with sites that keep no state.

Each site i has a control variate c_i, its mean gradient in the last round it took part in; c is their mean over all
sites. A site adds c - c_i to each of its gradients, so that it does not drift to its own optimum. After K steps of
learning rate l from x to y_i, c_i becomes c_i - c + (x - y_i) / (K l). All of that is a function of the updates, so the
coordinator computes and keeps it, and the site's own state, which the paper asks for, is not needed:

- the site sends what it does for FedAvg, already noised, and is charged nothing more (post-processing);
- it is sent one vector more, c - c_i, which is public to it and is added after clipping and noise.

c is in the strategy's state ("control"). c_i is in ``SITE.ROUND.f32`` of the run folder's ``controls/``: little-endian
float32, as the site's update of that round left it. A round uses the newest that is older than itself, so a round that
was broken off and is done again starts from the same variates.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import RunError
from common.files import fsync_folder
from server.aggregation.mean import RunningMean
from server.aggregation.vectors import State, Vector

BLOCK = 1 << 20  # coordinates at a time


class Controls:
    """The sites' control variates before round ``round_``, and those that it leaves. Older ones are removed."""

    def __init__(self, folder: Path, length: int, round_: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._length, self._round = folder, length, round_
        self._current: dict[str, Path] = {}
        found: dict[str, list[tuple[int, Path]]] = {}
        for path in folder.glob("*.f32"):
            site, number = path.name.removesuffix(".f32").rsplit(".", 1)
            found.setdefault(site, []).append((int(number), path))
        for site, versions in found.items():
            before = sorted(version for version in versions if version[0] < round_)
            if before:
                self._current[site] = before.pop()[1]
            for _, path in [*before, *(version for version in versions if version[0] >= round_)]:
                path.unlink()

    def read(self, site: str) -> Vector | None:
        """c_i before the round, or None for a site without one. Raises RunError when it is damaged."""
        path = self._current.get(site)
        if path is None:
            return None
        control = np.fromfile(path, dtype="<f4")
        if control.shape != (self._length,):
            raise RunError(
                f"'{path}' holds {control.size} values; expected {self._length}", "Remove it: the site starts anew"
            )
        return control

    def write(self, site: str, control: Vector) -> None:
        """Keep c_i of this round, whole or not at all."""
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".control.")
        try:
            with os.fdopen(handle, "wb") as file:
                for part in _blocks(self._length):
                    file.write(np.ascontiguousarray(control[part], dtype="<f4").data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._folder / f"{site}.{self._round}.f32")
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        fsync_folder(self._folder)


class ScaffoldAggregate:
    """The mean update moves the model; each update renews its site's control variate.

    ``sites``: how many there are in all, N. ``path_length``: K l, the steps of the round times their learning rate.
    """

    def __init__(
        self, mean: RunningMean, controls: Controls, state: State, sites: int, path_length: float, learning_rate: float
    ) -> None:
        self._mean, self._controls, self._rate = mean, controls, learning_rate
        self._control: Vector | None = state.get("control")
        self._sites, self._scale = sites, np.float32(1 / path_length)

    @property
    def count(self) -> int:
        """How many updates were taken."""
        return self._mean.count

    def add(self, site: str, update: Vector) -> None:
        """Fold in one update, and renew c_i."""
        self._mean.add(site, update)
        own = self._controls.read(site)
        new = update * -self._scale
        for part in _blocks(update.size):
            if own is not None:
                new[part] += own[part]
            if self._control is not None:
                new[part] -= self._control[part]
        self._controls.write(site, new)

    def step(self) -> tuple[Vector, State]:
        """The step of the model, and c moved by the mean change of all c_i (those of absent sites are as they were)."""
        mean = self._mean.mean()
        before = np.zeros_like(mean) if self._control is None else self._control
        share = np.float32(self.count / self._sites)
        control = before - share * (before + self._scale * mean)
        mean *= np.float32(self._rate)
        return mean, {"control": control.astype(np.float32, copy=False)}

    def correction(self, site: str) -> Vector | None:
        """The vector c - c_i, or None while both are zero."""
        own = self._controls.read(site)
        if self._control is None:
            return None if own is None else -own
        return self._control.copy() if own is None else self._control - own

    def close(self) -> None:
        """The variates stay for the next round."""


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK):
        yield slice(start, min(start + BLOCK, length))
