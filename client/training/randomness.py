"""The randomness of training: one cipher's keystream, and Gaussian noise made from it.

**Source.** AES-256 in counter mode (NIST SP 800-38A, section 6.5), keyed with 256 bits of the operating
system. Nobody without the key can predict one bit from all the others, which numpy's and torch's
generators do not promise. A key is made for each use in each round, is never stored, and no seed of an
experiment reaches it. Training *without* privacy keys the same stream from the study's seed instead.

**Gaussians.** Box and Muller (1958) in float64: a radius from 63 random bits (116 where these are
nearly all zero, so that the tail ends at 12.7 sigma instead of 9.4) and an angle from 64.

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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

KEY_BYTES = 32
_GRID = 2.0**-10  # grid of noised sums, relative to the power of two below their noise
_BLOCK = 1 << 16  # numbers at once, so that what they are made of stays in a core's cache
_ZEROS = memoryview(bytes(1 << 14))
_POSITIVE = np.uint64((1 << 63) - 1)
_OWN = threading.local()
_NEARLY_ZERO = np.uint64(1 << 32)


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
    """Blocks of Gaussian numbers, each made on ``device`` in the memory of the one before."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._words = np.empty(_BLOCK, dtype=np.uint64)
        self._integers = torch.from_numpy(self._words.view(np.int64))
        self._floats = torch.from_numpy(self._words.view(np.float64)) if device.type == "cpu" else None
        self._numbers = torch.empty(_BLOCK, dtype=torch.float64, device=device)

    def next(self, stream: Keystream, count: int, std: float) -> Tensor:
        """``count`` (at most ``_BLOCK``) numbers of N(0, std^2), float64; they hold until the next call."""
        pairs = (count + 1) // 2
        words = self._words[: 2 * pairs]
        stream.fill(words)
        bits = words[:pairs]
        bits &= _POSITIVE
        rare = np.flatnonzero(bits < _NEARLY_ZERO) if pairs and bits.min() < _NEARLY_ZERO else None
        if rare is not None:
            lower = torch.from_numpy(bits[rare] + (stream.uniform(len(rare)) + 2.0**-54)).to(self.device)
        floats = self._as_floats(2 * pairs)
        radius, angle = floats[:pairs], floats[pairs:]
        radius.add_(0.5)
        if rare is not None:
            radius[torch.from_numpy(rare).to(self.device)] = lower
        radius.mul_(2.0**-63).log_().mul_(-2 * std * std).sqrt_()
        angle.mul_(math.pi * 2.0**-63)
        cosine, sine = self._numbers[:pairs], self._numbers[pairs : 2 * pairs]
        torch.cos(angle, out=cosine).mul_(radius)
        torch.sin(angle, out=sine).mul_(radius)
        return self._numbers[:count]

    def _as_floats(self, count: int) -> Tensor:
        """The words as float64; on a CPU in their own memory, so that a block fits into a core's cache."""
        if self._floats is None:
            return self._integers[:count].to(self.device, torch.float64)
        return self._floats[:count].copy_(self._integers[:count])


def add_noise(total: Tensor, std: float, stream: Keystream) -> Tensor:
    """``total`` with N(0, std^2) added to each entry and rounded to the grid; shape, type and device stay.

    The grid is the power of two in (std / 2048, std / 1024]. The sum is made in float64, so a float32
    result is exact up to 8,192 standard deviations. ``std = 0`` adds nothing and rounds nothing. On a
    CPU, as many threads work as torch has; the result does not depend on their number. Raises ValueError
    on a ``std`` that is negative or not finite.
    """
    if not 0 <= std < math.inf:
        raise ValueError(f"std = {std!r}: expected a finite number, 0 or above")
    if std == 0:
        return total.detach().clone()
    grid = 2.0 ** math.floor(math.log2(std)) * _GRID
    noised = torch.empty_like(total, requires_grad=False, memory_format=torch.contiguous_format)
    flat, out = total.detach().reshape(-1), noised.view(-1)
    starts = range(0, len(flat), _BLOCK)
    keys = [stream.words(KEY_BYTES // 8).tobytes() for _ in starts]  # a stream a block, whichever thread makes it
    workers = max(1, min(torch.get_num_threads(), len(starts))) if total.device.type == "cpu" else 1

    def work(first: int) -> None:
        normals = _normals(total.device)
        for start, key in zip(starts[first::workers], keys[first::workers], strict=True):
            entries = flat[start : start + _BLOCK]
            steps = normals.next(Keystream(key), len(entries), std / grid).add_(entries, alpha=1 / grid).round_()
            torch.mul(steps, grid, out=out[start : start + _BLOCK])

    with _single_threaded():
        if workers == 1:
            work(0)
        else:
            list(_pool(workers, os.getpid()).map(work, range(workers)))
    return noised


def _normals(device: torch.device) -> _Normals:
    """The blocks of this thread; new memory for each sum would cost as much as what is done in it."""
    found: _Normals | None = getattr(_OWN, "normals", None)
    if found is None or found.device != device:
        found = _OWN.normals = _Normals(device)
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
    """Threads in each of which torch uses one thread. To be called while torch is single-threaded."""
    return ThreadPoolExecutor(workers, "fedct-noise", initializer=torch.set_num_threads, initargs=(1,))
