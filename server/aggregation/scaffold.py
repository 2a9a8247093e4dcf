"""SCAFFOLD (Karimireddy et al. 2020, option II) with sites that keep no state.

Each site i has a control variate c_i, its mean gradient in the last round it took part in; c is their mean over all
sites. A site adds c - c_i to each of its gradients, so that it does not drift to its own optimum. After K steps of
learning rate l from x to y_i, c_i becomes c_i - c + (x - y_i) / (K l). All of that is a function of the updates, so the
coordinator computes and keeps it, and the site's own state, which the paper asks for, is not needed:

- the site sends what it does for FedAvg, already noised, and is charged nothing more (post-processing);
- it is sent one vector more, c - c_i, which is public to it and is added after clipping and noise.

c is in the strategy's state ("control"). c_i is in ``SITE.ROUND.f32`` of the run folder's ``controls/``: little-endian
float32, as the site's update of that round left it. A round uses the newest that is older than itself, so a round that
was broken off and is done again starts from the same variates. They are read and written in blocks: in memory there is
c alone.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
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
        self._folder, self._round, self.length = folder, round_, length
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

    def read(self, site: str) -> Iterator[Vector] | None:
        """c_i before the round in blocks, or None for a site without one. Raises RunError when it is damaged."""
        path = self._current.get(site)
        if path is None:
            return None
        if path.stat().st_size != 4 * self.length:
            raise RunError(
                f"'{path}' holds {path.stat().st_size // 4} values; expected {self.length}",
                "Remove it: the site starts anew",
            )
        return _read(path, self.length)

    def write(self, site: str, control: Iterable[Vector]) -> None:
        """Keep c_i of this round, given in blocks, whole or not at all."""
        handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".control.")
        try:
            with os.fdopen(handle, "wb") as file:
                for values in control:
                    file.write(np.ascontiguousarray(values, dtype="<f4").data)
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
        self._mean, self._controls, self._rate, self._length = mean, controls, learning_rate, controls.length
        self._control: Vector | None = state.get("control")
        self._sites, self._scale = sites, np.float32(1 / path_length)

    @property
    def count(self) -> int:
        """How many updates were taken."""
        return self._mean.count

    def add(self, site: str, update: Vector) -> None:
        """Fold in one update, and renew c_i."""
        self._mean.add(site, update)
        self._controls.write(site, self._renewed(update, self._controls.read(site)))

    def _renewed(self, update: Vector, own: Iterator[Vector] | None) -> Iterator[Vector]:
        for part in _blocks(update.size):
            new = update[part] * -self._scale
            if own is not None:
                new += next(own)
            if self._control is not None:
                new -= self._control[part]
            yield new

    def step(self) -> tuple[Vector, State]:
        """The step of the model, and c moved by the mean change of all c_i (those of absent sites are as they were)."""
        mean = self._mean.mean()
        control = np.zeros_like(mean) if self._control is None else self._control.copy()
        share = np.float32(self.count / self._sites)
        for part in _blocks(mean.size):
            control[part] -= share * (control[part] + self._scale * mean[part])
        mean *= np.float32(self._rate)
        return mean, {"control": control}

    def correction(self, site: str) -> Vector | None:
        """The vector c - c_i, or None while both are zero."""
        own = self._controls.read(site)
        if own is None:
            return None if self._control is None else self._control.copy()
        found = np.zeros(self._length, np.float32) if self._control is None else self._control.copy()
        for part, values in zip(_blocks(found.size), own, strict=True):
            found[part] -= values
        return found

    def close(self) -> None:
        """The variates stay for the next round."""


def _read(path: Path, length: int) -> Iterator[Vector]:
    with path.open("rb") as file:
        for part in _blocks(length):
            yield np.fromfile(file, dtype="<f4", count=part.stop - part.start)


def _blocks(length: int) -> Iterator[slice]:
    for start in range(0, length, BLOCK):
        yield slice(start, min(start + BLOCK, length))
