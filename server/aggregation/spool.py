"""The updates of one round in a file, for strategies that need all of them: read back some columns at a time.

Plain reads and writes, no memory map: a full disk is then an error that names the file instead of a signal that
kills the process, and pages that were read do not count as the process's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BufferedRandom
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.aggregation.vectors import State, Vector, check

BLOCK_BYTES = 16 << 20  # of the columns in memory at a time
LEAST_COLUMNS = 1024

Block = NDArray[np.float32]  # [updates, columns]


class Spool:
    """Updates of one length in the file ``path``, which ``close`` removes. Rows are in the order of the sites' names,
    so that the result does not hang on who was faster.
    """

    def __init__(self, path: Path, length: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._length = path, length
        self._rows: dict[str, int] = {}
        self._file: BufferedRandom = path.open("w+b")

    @property
    def count(self) -> int:
        """How many updates there are."""
        return len(self._rows)

    def add(self, site: str, update: Vector) -> None:
        """Append one update. ValueError as ``check`` raises it, or for a second update of one site."""
        check(update, self._length)
        if site in self._rows:
            raise ValueError(f"site '{site}' sent a second update")
        row = len(self._rows)
        self._file.seek(row * self._length * 4)
        self._file.write(np.ascontiguousarray(update).data)
        self._rows[site] = row

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """The columns of all updates, some at a time: (which, values [updates, columns])."""
        width = max(LEAST_COLUMNS, BLOCK_BYTES // (4 * max(1, self.count)))
        order = [self._rows[site] for site in sorted(self._rows)]
        for start in range(0, self._length, width):
            stop = min(start + width, self._length)
            block = np.empty((self.count, stop - start), dtype=np.float32)
            for index, row in enumerate(order):
                self._file.seek((row * self._length + start) * 4)
                if self._file.readinto(block[index].data) != block[index].nbytes:
                    raise OSError(f"'{self._path}' ends early")
            yield slice(start, stop), block

    def reduced(self, reduce: Callable[[Block], Vector]) -> Vector:
        """``reduce`` of each block of columns, put together. ValueError when there is no update."""
        if not self.count:
            raise ValueError("no update to aggregate")
        result = np.empty(self._length, dtype=np.float32)
        for columns, block in self.blocks():
            result[columns] = reduce(block)
        return result

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


class SpoolAggregate:
    """Moves the model by ``combine`` of all updates."""

    def __init__(self, spool: Spool, combine: Callable[[Spool], Vector], learning_rate: float) -> None:
        self._spool, self._combine, self._rate = spool, combine, learning_rate

    @property
    def count(self) -> int:
        """How many updates were taken."""
        return self._spool.count

    def add(self, site: str, update: Vector) -> None:
        """Write one update to disk; see ``Spool.add``."""
        self._spool.add(site, update)

    def step(self) -> tuple[Vector, State]:
        """The step of the model; there is no state."""
        combined = self._combine(self._spool)
        combined *= np.float32(self._rate)
        return combined, {}

    def correction(self, site: str) -> None:
        """Sites correct nothing."""

    def close(self) -> None:
        """Remove the updates."""
        self._spool.close()
