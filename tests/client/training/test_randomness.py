"""The keystream is the cipher's, the noise is Gaussian, and nothing but the key fixes either.

Streams under fixed keys make the statistical tests repeatable. Each check that a good sample passes
is shown to fail on a sample with one fault.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from client.training import randomness
from client.training.randomness import KEY_BYTES, Keystream, add_noise

KEY = bytes(range(KEY_BYTES))
N = 400_000
ROOT = Path(__file__).parents[3]


class Words(Keystream):
    """A stream of given words, then of the cipher's."""

    def __init__(self, *words: int) -> None:
        super().__init__(KEY)
        self._given = list(words)

    def fill(self, words):
        super().fill(words)
        given, self._given = self._given[: len(words)], self._given[len(words) :]
        words[: len(given)] = given


# The keystream


def test_the_first_block_is_the_published_one():
    block = Keystream(bytes(32)).words(2).tobytes()
    assert block.hex() == "dc95c078a2408989ad48a21492842087"  # NIST AESAVS, KAT for AES-256: zero key, zero text


def test_the_words_are_the_ciphers_of_a_counter_from_zero():
    encrypt = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update
    blocks = b"".join(encrypt(n.to_bytes(16, "big")) for n in range(50_000))
    assert np.array_equal(Keystream(KEY).words(100_000), np.frombuffer(blocks, dtype="<u8"))


@given(st.lists(st.integers(0, 200), max_size=8))
def test_how_a_stream_is_cut_does_not_change_it(counts):
    stream = Keystream(KEY)
    parts = [stream.words(count) for count in counts]
    assert np.array_equal(np.concatenate([np.empty(0, np.uint64), *parts]), Keystream(KEY).words(sum(counts)))


def test_a_child_follows_from_key_and_label_alone():
    parent = Keystream(KEY)
    first = parent.child(b"a").words(4)
    parent.words(1000)
    assert np.array_equal(parent.child(b"a").words(4), first)
    assert not np.array_equal(parent.child(b"b").words(4), first)
    assert not np.array_equal(Keystream(KEY[::-1]).child(b"a").words(4), first)
    assert not np.array_equal(Keystream(KEY).words(4), first)


def test_seeds_tell_streams_apart_by_every_number():
    assert np.array_equal(Keystream.seeded(1, 23).words(4), Keystream.seeded(1, 23).words(4))
    heads = {Keystream.seeded(*seed).words(1)[0] for seed in ((1, 23), (12, 3), (123,), (1, 23, 0), (0, 23))}
    assert len(heads) == 5


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(33)])
def test_a_key_of_another_length_is_refused(key):
    with pytest.raises(ValueError, match="expected 32"):
        Keystream(key)


def test_no_seed_reaches_a_secret_stream():
    heads = set()
    for _ in range(3):
        np.random.seed(7)
        torch.manual_seed(7)
        random.seed(7)
        heads.add(int(Keystream.secret().words(1)[0]))
    assert len(heads) == 3


def test_a_secret_stream_takes_256_bits_of_the_operating_system(monkeypatch):
    asked = []
    monkeypatch.setattr(randomness.secrets, "token_bytes", lambda count: asked.append(count) or KEY)
    assert np.array_equal(Keystream.secret().words(4), Keystream(KEY).words(4))
    assert asked == [32]


@pytest.mark.parametrize("copying", [copy.deepcopy, pickle.dumps])
def test_a_stream_can_not_be_stored_or_doubled(copying):
    with pytest.raises(TypeError):
        copying(Keystream(KEY))


def test_a_fork_does_not_repeat_the_numbers_of_its_parent():
    code = """
import os
from client.training.randomness import Keystream
stream = Keystream.secret()
child = os.fork()
if not child:
    try:
        stream.words(1)
    except RuntimeError:
        os._exit(3)
    os._exit(0)
stream.words(1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 3


# Uniform numbers and samples


def test_uniform_numbers_are_uniform_and_below_one():
    numbers = Keystream(KEY).uniform(N)
    assert stats.kstest(numbers, "uniform").pvalue > 1e-6
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert Words(2**64 - 1, 0, 2**11).uniform(3).tolist() == [1 - 2.0**-53, 0.0, 2.0**-53]


def test_every_sample_is_as_likely_as_any_other():
    stream = Keystream(KEY)
    orders = [tuple(stream.sample(3, 2)) for _ in range(6000)]
    counts = [orders.count((a, b)) for a in range(3) for b in range(3) if a != b]
    assert sum(counts) == 6000
    assert stats.chisquare(counts).pvalue > 1e-6


def test_a_sample_is_distinct_and_at_most_everybody():
    stream = Keystream(KEY)
    assert len(set(stream.sample(50, 20))) == 20
    assert sorted(stream.sample(3, 9)) == [0, 1, 2]
    assert len(stream.sample(0, 3)) == 0


# Gaussian numbers


def faults(sample: np.ndarray) -> set[str]:
    """The checks that ``sample`` fails as N(0, 1) drawn independently, each at a chance of about 1e-6."""
    n, limit = len(sample), 4.9
    pairs = {"neighbours": 1, "halves of a block": randomness._BLOCK // 2, "blocks": randomness._BLOCK}
    found = {
        "distribution": stats.kstest(sample, "norm").pvalue < 1e-6,
        "mean": abs(sample.mean()) * math.sqrt(n) > limit,
        "deviation": abs(sample.var() - 1) * math.sqrt(n / 2) > limit,
        "tails": stats.binomtest(int((np.abs(sample) > 4).sum()), n, 2 * stats.norm.sf(4)).pvalue < 1e-6,
        "values twice": len(np.unique(sample)) < n - 1,
    }
    for name, lag in pairs.items():
        for power in (1, 2):
            values = sample**power - sample.var() * (power - 1)
            score = (values[lag:] * values[:-lag]).sum() / math.sqrt(n - lag) / power
            found[name] = found.get(name, False) or abs(score) > limit
    return {name for name, failed in found.items() if failed}


def normal(stream: Keystream, count: int) -> torch.Tensor:
    """``count`` Gaussian numbers in blocks, as noise is made of."""
    blocks = randomness._Normals()
    sizes = [min(randomness._BLOCK, count - start) for start in range(0, count, randomness._BLOCK)]
    return torch.cat([torch.empty(0), *(torch.tensor(blocks.next(stream, size, 1.0)) for size in sizes)])


def noised(total: torch.Tensor, std: float, stream: Keystream) -> torch.Tensor:
    """A noised copy."""
    copied = total.detach().clone(memory_format=torch.contiguous_format)
    add_noise([copied], std, stream)
    return copied


def good() -> np.ndarray:
    return normal(Keystream(KEY), N).numpy()


def test_noise_passes_every_check():
    assert faults(good()) == set()


FAULTY = {
    "a hundredth too quiet": (lambda x: x * 0.99, "deviation"),
    "off the middle": (lambda x: x + 0.01, "mean"),
    "cut at four deviations": (lambda x: np.clip(x, -4, 4), "tails"),
    "of another shape": (lambda x: np.random.default_rng(0).standard_t(30, len(x)) / math.sqrt(30 / 28), "tails"),
    "of sixteen bits": (lambda x: stats.norm.ppf((np.floor(stats.norm.cdf(x) * 65536) + 0.5) / 65536), "values twice"),
    "tied to the number before": (lambda x: (x + 0.01 * np.roll(x, 1)) / math.sqrt(1 + 1e-4), "neighbours"),
    "as loud as the number before": (lambda x: np.repeat(x[::2], 2) * np.sign(np.roll(x, 1)), "neighbours"),
    "tied to the other of its pair": (lambda x: x + 0.012 * np.roll(x, randomness._BLOCK // 2), "halves of a block"),
    "one block again and again": (lambda x: np.resize(x[: randomness._BLOCK], len(x)), "blocks"),
}


@pytest.mark.parametrize("fault", list(FAULTY))
def test_noise_with_one_fault_is_noticed(fault):
    spoil, check = FAULTY[fault]
    assert check in faults(spoil(good()))


def test_the_two_halves_of_a_pair_are_the_cosine_and_the_sine_of_one_angle():
    words = [0x123456789ABCDEF0, 0xFEDCBA9876543210, 0x0F1E2D3C4B5A6978, 0xC0FFEE0123456789]
    got = normal(Words(*words), 4).numpy()
    for i in range(2):
        radius = math.sqrt(-2 * math.log(((words[i] & (2**63 - 1)) + 0.5) / 2**63))
        angle = (words[2 + i] - 2**64 * (words[2 + i] >> 63)) * math.pi / 2**63
        assert got[[i, 2 + i]] == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)], rel=1e-13)


def test_the_tail_goes_on_where_sixty_three_bits_end():
    """A radius from nearly no bits takes more: at 63, nothing would lie beyond 9.42."""
    furthest = float(normal(Words(0, 0, 0), 2)[0])
    assert furthest == pytest.approx(math.sqrt(-2 * math.log(2.0**-54 / 2**63)), rel=1e-12)
    assert furthest > 12.7
    assert float(normal(Words(2**63 - 1, 0), 2)[0]) >= 0  # the other end: radius zero, not the root of less
    assert torch.isfinite(normal(Words(2**64 - 1, 2**64 - 1), 2)).all()


@pytest.mark.parametrize("count", [0, 1, 2, 7, 65_535, 65_536, 65_537, 200_001])
def test_any_number_of_numbers_can_be_had(count):
    numbers = normal(Keystream(KEY), count)
    assert numbers.shape == (count,)
    assert torch.isfinite(numbers).all()
    result = noised(torch.zeros(count), 1.0, Keystream(KEY))
    assert len(result) == count
    assert result.abs().min() < 2 if count else True


# Noise on a sum


def test_noise_has_the_stated_deviation_and_keeps_shape_and_type():
    total = torch.full((300, 1000), 5.0)
    result = noised(total, 0.3, Keystream(KEY))
    assert (result.shape, result.dtype) == (total.shape, torch.float32)
    standard = ((result.double() - 5) / 0.3).flatten().numpy()
    # The grid makes values meet and moves each by under a two-thousandth; nothing else shows.
    assert faults(standard) <= {"values twice"}
    assert "deviation" in faults(standard * 1.01)
    assert torch.equal(total, torch.full((300, 1000), 5.0))


def test_the_number_of_threads_does_not_change_the_noise():
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(noised(torch.zeros(300_001), 1.0, Keystream(KEY)))
        assert torch.get_num_threads() == threads  # as it was
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_failure_in_a_thread_is_no_silent_lack_of_noise(monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(randomness._Normals, "next", fail)
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(MemoryError):
            noised(torch.zeros(300_001), 1.0, Keystream(KEY))
    torch.set_num_threads(before)


def test_two_noised_sums_never_share_their_noise():
    stream = Keystream(KEY)
    one, two = (noised(torch.zeros(100_000), 1.0, stream).numpy() for _ in range(2))
    assert abs(np.corrcoef(one, two)[0, 1]) < 4.9 / math.sqrt(len(one))


@settings(deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-100, 100), st.integers(1, 50))
def test_every_noised_sum_is_on_a_grid_that_only_the_noise_sets(std, total, count):
    result = noised(torch.full((count,), total * std, dtype=torch.float32), std, Keystream(KEY)).double()
    grid = 2.0 ** math.floor(math.log2(std)) / 1024
    assert std / 2048 < grid <= std / 1024
    assert torch.equal(result / grid, (result / grid).round())


def test_low_bits_of_a_noised_sum_do_not_tell_two_sums_apart():
    """The attack of Mironov (2012): results that one sum can give and another can't."""

    def refuted(results, total):
        """Share of results r for which no float32 z gives total + z == r; such a z would be next to r - total."""
        z = (results.double() - total).float()
        total = torch.tensor(total, dtype=torch.float32)
        nearest = [z, *(torch.nextafter(z, torch.tensor(end)) for end in (-math.inf, math.inf))]
        return 1 - torch.stack([total + near == results for near in nearest]).any(0).double().mean().item()

    def near_zero(result):
        return result[result.abs() < 0.1]  # "the sum was 0.7" needs noise near -0.7, whose steps are coarser

    noise = normal(Keystream(KEY), N).float()
    assert refuted(near_zero(noise), 0.0) == 0
    assert refuted(near_zero(noise), 0.7) > 0.5
    assert refuted(near_zero(noise + 0.7), 0.7) == 0
    one, other = (near_zero(noised(torch.full((N,), total), 1.0, Keystream(KEY))) for total in (0.0, 0.7))
    assert refuted(one, 0.7) == 0
    assert set(one.tolist()) == set(other.tolist())


def test_no_noise_changes_nothing():
    total = torch.randn(5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(noised(total, 0.0, Keystream(KEY)), total)


@pytest.mark.parametrize("std", [-1.0, math.nan, math.inf])
def test_an_impossible_deviation_is_refused_by_value(std):
    with pytest.raises(ValueError, match="std"):
        noised(torch.zeros(3), std, Keystream(KEY))


def test_a_sum_in_any_layout_gets_independent_noise():
    total = torch.zeros(64, 8, 3, 3).to(memory_format=torch.channels_last)
    result = noised(total, 1.0, Keystream(KEY)).flatten().numpy()
    assert stats.kstest(result, "norm").pvalue > 1e-6
    assert len(np.unique(result)) > 2000


def test_a_sum_is_noised_in_its_own_memory_or_refused():
    with pytest.raises(RuntimeError, match="view"):
        add_noise([torch.zeros(8, 9).T], 1.0, Keystream(KEY))


def test_how_entries_are_cut_into_tensors_does_not_change_the_noise():
    whole = torch.zeros(200_001)
    parts = [part.clone() for part in whole.split([3, 70_000, 0, 60_000, 69_998])]
    add_noise([whole], 2.0, Keystream(KEY))
    add_noise(parts, 2.0, Keystream(KEY))
    assert torch.equal(torch.cat(parts), whole)


def test_a_divisor_takes_the_place_of_a_division_afterwards():
    one, other = torch.ones(1000), torch.ones(1000)
    add_noise([one], 0.7, Keystream(KEY))
    add_noise([other], 0.7, Keystream(KEY), 10.0)
    assert torch.allclose(one / 10, other, rtol=1e-6, atol=0)
    exact = torch.ones(4)
    add_noise([exact], 0.0, Keystream(KEY), 4.0)
    assert exact.tolist() == [0.25] * 4


def test_both_numbers_of_a_pair_are_as_exact_as_cosine_and_sine_in_long_double():
    stream, half = Keystream(KEY), 32_768
    words = stream.words(2 * half)
    numbers = normal(Keystream(KEY), 2 * half).numpy()
    u = ((words[:half] & np.uint64(2**63 - 1)).astype(np.longdouble) + 0.5) * np.longdouble(2) ** -63
    angle = words[half:].view(np.int64).astype(np.longdouble) * (np.longdouble(np.pi) * np.longdouble(2) ** -63)
    radius = np.sqrt(-2 * np.log(u))
    for got, expected in ((numbers[:half], np.cos(angle)), (numbers[half:], np.sin(angle))):
        # a few units in the last place of the radius, and what float64 holds of a u next to 1
        assert (np.abs(got - radius * expected) < 1.5e-15 * radius + 2e-16 / radius).all()
