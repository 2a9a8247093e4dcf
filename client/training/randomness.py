"""The randomness of training: one cipher's keystream, and Gaussian noise made from it.

**Source.** AES-256 in counter mode (NIST SP 800-38A, section 6.5), keyed with 256 bits of the operating
system. Nobody without the key can predict one bit from all the others, which numpy's and torch's
generators do not promise. A key is made for each use in each round, is never stored, and no seed of an
experiment reaches it. Training *without* privacy keys the same stream from the study's seed instead.

**Gaussians.** Box and Muller (1958) in float64: a radius from 63 random bits (116 where these are
nearly all zero, so that the tail ends at 12.7 sigma instead of 9.4) and an angle from 64. Cosine and
sine are those of half the angle's tangent t: 2 / (1 + t^2) - 1 and 2 t / (1 + t^2), off by a few units
in the last place of the radius.

**Floating point.** The bits of ``sum + noise`` can tell which sums are possible (Mironov 2012), however
good the source. So the noised sum is rounded to a public grid, 1,024 to 2,047 times finer than the
noise: every result is a whole number of grid steps whatever the sum was, and rounding is
post-processing. The chance of each step is that of the exact Gaussian up to float64 rounding; this is
not the discrete Gaussian of Canonne, Kamath and Steinke (2020), whose chances would be exact.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

KEY_BYTES = 32
_GRID = 2.0**-10  # grid of noised sums, relative to the power of two below their noise
# Numbers at once: what they are made of stays in a core's cache, and threads seldom wait for the interpreter.
_BLOCK = 1 << 17
_ZEROS = memoryview(bytes(1 << 16))
_POSITIVE = np.uint64((1 << 63) - 1)
_OWN = threading.local()
_NEARLY_ZERO = np.uint64(1 << 32)
_NONE = np.empty(0, dtype=np.intp)


def _in_place(function: Callable[..., Any]) -> Callable[[NDArray[np.float64]], object]:
    """A function of numpy's or torch's that overwrites an array."""
    if isinstance(function, np.ufunc):
        return lambda array: function(array, out=array)
    return lambda array: function(torch.from_numpy(array), out=torch.from_numpy(array))


# Where processors have AVX-512, numpy's are vectorised, and faster than torch's; elsewhere they are not.
_FAST = torch.backends.cpu.get_cpu_capability() == "AVX512"
_LOG, _TAN = _in_place(np.log if _FAST else torch.log), _in_place(np.tan if _FAST else torch.tan)


class Keystream:
    """Random numbers from AES-256-CTR under ``key`` (32 bytes), which must be used for nothing else.

    Equal keys give equal numbers. A stream is for one thread; it can't be copied or pickled, and after a
    fork it raises RuntimeError in the child, which would repeat the numbers of its parent.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {len(key)} bytes; expected {KEY_BYTES}")
        self._key = key
        self._cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        self._process = os.getpid()

    @classmethod
    def secret(cls) -> Keystream:
        """A stream that nobody can predict or repeat: keyed by the operating system."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def seeded(cls, *seed: int) -> Keystream:
        """A stream that whoever knows ``seed`` can repeat: for training without privacy only."""
        return cls(blake2b(repr(seed).encode(), digest_size=KEY_BYTES, person=b"fedct seed").digest())

    def child(self, label: bytes) -> Keystream:
        """A stream that follows from this one's key and ``label`` alone, wherever this one stands."""
        return Keystream(blake2b(label, key=self._key, digest_size=KEY_BYTES, person=b"fedct child").digest())

    def fill(self, words: NDArray[np.uint64]) -> None:
        """Put the next ``len(words)`` numbers of 64 random bits into ``words``."""
        if os.getpid() != self._process:
            raise RuntimeError("a keystream made before a fork would repeat itself; make a new one")
        room = words.data.cast("B")
        for start in range(0, len(room), len(_ZEROS)):
            part = room[start : start + len(_ZEROS)]
            self._cipher.update_into(_ZEROS[: len(part)], part)

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next ``count`` numbers of 64 random bits."""
        words = np.empty(count, dtype=np.uint64)
        self.fill(words)
        return words

    def uniform(self, count: int) -> NDArray[np.float64]:
        """The next ``count`` numbers in [0, 1), whole multiples of 2**-53."""
        return (self.words(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def sample(self, population: int, size: int) -> NDArray[np.intp]:
        """``size`` of ``range(population)`` in random order, distinct; all of them when there are fewer."""
        return np.argsort(self.uniform(population), kind="stable")[:size]


class _Normals:
    """Blocks of Gaussian numbers, each made in the memory of the one before: new memory would cost as much as they do."""

    def __init__(self) -> None:
        self._words = np.empty(_BLOCK, dtype=np.uint64)
        self._numbers = np.empty(_BLOCK)

    def next(self, stream: Keystream, count: int, std: float) -> NDArray[np.float64]:
        """``count`` (at most ``_BLOCK``) numbers of N(0, std^2); they hold until the next call."""
        pairs = (count + 1) // 2
        words = self._words[: 2 * pairs]
        stream.fill(words)
        bits = words[:pairs]
        bits &= _POSITIVE
        rare = np.flatnonzero(bits < _NEARLY_ZERO) if pairs and bits.min() < _NEARLY_ZERO else _NONE
        lower = bits[rare] + (stream.uniform(len(rare)) + 2.0**-54)
        radius, tangent = words[:pairs].view(np.float64), words[pairs:].view(np.float64)
        np.copyto(radius, bits.view(np.int64))  # in the words' own memory, so that a block stays in a core's cache
        np.copyto(tangent, words[pairs:].view(np.int64))
        radius += 0.5
        radius[rare] = lower
        radius *= 2.0**-63
        _LOG(radius)
        radius *= -8 * std * std
        np.sqrt(radius, out=radius)  # twice the radius
        tangent *= math.pi * 2.0**-64
        _TAN(tangent)
        one, other = self._numbers[:pairs], self._numbers[pairs : 2 * pairs]
        np.multiply(tangent, tangent, out=one)
        one += 1.0
        np.divide(radius, one, out=one)  # 2 r / (1 + t^2), which is r (1 + cos)
        np.multiply(one, tangent, out=other)
        radius *= 0.5
        one -= radius
        return self._numbers[:count]


def add_noise(totals: Sequence[Tensor], std: float, stream: Keystream, divisor: float = 1.0) -> None:
    """Add N(0, std^2) to each entry of ``totals`` (contiguous, on the CPU), round to the grid, divide; in place.

    The grid is the power of two in (std / 2048, std / 1024]. The sum is made in float64, so a float32
    result is exact up to 8,192 standard deviations, before it is divided by ``divisor``. ``std = 0`` adds nothing
    and rounds nothing. As many threads work as torch has; the result does not depend on their number, nor on
    how entries are cut into tensors. Raises ValueError on a ``std`` that is negative or not finite.
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"std = {std!r}: expected a finite number, 0 or above")
    grid = 2.0 ** math.floor(math.log2(std)) * _GRID if std else 1.0
    blocks = _blocks(totals)
    keys = [stream.words(KEY_BYTES // 8).tobytes() for _ in blocks]  # a stream a block, whichever thread makes it
    workers = max(1, min(torch.get_num_threads(), len(blocks)))

    def work(first: int) -> None:
        normals = _normals()
        for block, key in zip(blocks[first::workers], keys[first::workers], strict=True):
            made = normals.next(Keystream(key), sum(map(len, block)), std / grid)
            for noise, entries in zip(torch.split(torch.from_numpy(made), [len(e) for e in block]), block, strict=True):
                steps = noise.add_(entries, alpha=1 / grid)
                torch.mul(steps.round_() if std else steps, grid / divisor, out=entries)

    with _single_threaded(), ExitStack() as others:
        if workers > 1:
            pool = _pool(workers - 1, os.getpid())
            for first in range(1, workers):
                others.callback(pool.submit(work, first).result)
        work(0)  # this thread has a processor: two that are woken at once may share one for the whole of their work


def _blocks(totals: Sequence[Tensor]) -> list[list[Tensor]]:
    """The entries of all ``totals`` in their order, ``_BLOCK`` at a time: each block a list of stretches of them."""
    blocks: list[list[Tensor]] = []
    room = 0
    for total in totals:
        left = total.detach().view(-1)
        while len(left):
            if room == 0:
                blocks.append([])
                room = _BLOCK
            blocks[-1].append(left[:room])
            room, left = room - len(left[:room]), left[room:]
    return blocks


def _normals() -> _Normals:
    """The blocks of this thread."""
    found: _Normals | None = getattr(_OWN, "normals", None)
    if found is None:
        found = _OWN.normals = _Normals()
    return found


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Torch's own threads would meet after every small operation, and wait long where the machine is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _pool(workers: int, process: int) -> ThreadPoolExecutor:  # noqa: ARG001 - after a fork, another pool
    """Other threads, in each of which torch uses one thread. To be called while torch is single-threaded."""
    return ThreadPoolExecutor(workers, "fedct-noise", initializer=torch.set_num_threads, initargs=(1,))
