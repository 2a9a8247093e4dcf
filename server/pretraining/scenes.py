"""Random-process images: scenes of simple shapes that overlap, chains of like shapes with an odd one among them.

After the finding of Tang et al. (2023) that networks which have learnt images of random processes need far
fewer private steps, and of Kataoka et al. (2020) that the numbers which made such an image can serve as its
label. The processes are dead leaves (Matheron 1968: shapes of random place, size and grey that cover one
another), chains of one shape repeated along an arc, of which one link may differ, and noise with a
power-law spectrum. Places, directions, sizes, shapes, greys and what is odd are all drawn at random; there
is no anatomy in it, and none of a study's classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.study import NEIGHBOURS

LEAVES, LINKS = 5, 7
CHAINS = (1.0, 0.5)
"""The chance of each chain to be there."""
SMALLEST, LARGEST = 2.2, 7.0
"""Half the width of a chain's link, in pixels."""
FACTS = ("odd", "flat", "tapered", "swollen", "ragged", "other grey", "size", "elongation", "roundness", "rim")
"""What is to be told of a scene, of each of its chains and added up."""
_DRIFT = torch.tensor([-1.0, 0.0, 1.0]).view(1, NEIGHBOURS, 1, 1)


@dataclass(frozen=True)
class Scenes:
    """``images``: float32 [n, 3, size, size] in 0 to 1, three neighbouring planes. ``facts``: float32 [n, FACTS]."""

    images: Tensor
    facts: Tensor


class _Random:
    """Random numbers for ``count`` scenes at a time."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count, self.rng = count, rng

    def between(self, low: float, high: float) -> Tensor:
        """Uniform, [count]."""
        return torch.from_numpy(self.rng.uniform(low, high, self.count).astype(np.float32))

    def odds(self, chance: float) -> Tensor:
        """1 with this chance, else 0, [count]."""
        return (self.between(0, 1) < chance).float()

    def log_between(self, low: float, high: float) -> Tensor:
        """Uniform in the logarithm, [count]."""
        return self.between(math.log(low), math.log(high)).exp()


@dataclass
class _Shape:
    """A superellipse |u / a|^p + |v / b|^p = 1 in each scene, all of them [n]; lengths in pixels.

    ``taper``: how much v widens along u. ``ragged``: depth of the teeth of its edge.
    """

    x: Tensor
    y: Tensor
    a: Tensor
    b: Tensor
    angle: Tensor
    power: Tensor
    taper: Tensor
    ragged: Tensor


@dataclass
class _Paint:
    """How a shape is filled: greys of its inside and rim, width of the rim, shift between planes, 0 for no shape."""

    fill: Tensor
    rim: Tensor
    width: Tensor
    drift: Tensor
    present: Tensor


class _Canvas:
    """``count`` images of three planes, painted one shape each at a time."""

    def __init__(self, size: int, grey: Tensor) -> None:
        self.images = _wide(grey).repeat(1, NEIGHBOURS, size, size)
        places = torch.arange(size) - (size - 1) / 2
        self._y, self._x = torch.meshgrid(places, places, indexing="ij")

    def paint(self, shape: _Shape, paint: _Paint) -> None:
        """Cover what is there, with an edge one pixel wide."""
        depth = self._depth(shape).unsqueeze(1) - _DRIFT * _wide(paint.drift)  # pixels within the shape
        cover = (depth + 0.5).clamp(0, 1) * _wide(paint.present)
        inside = (depth - _wide(paint.width) + 0.5).clamp(0, 1)
        colour = torch.lerp(_wide(paint.rim), _wide(paint.fill), inside)
        self.images = torch.lerp(self.images, colour, cover)

    def _depth(self, shape: _Shape) -> Tensor:
        """About how far within the shape each pixel lies, negative outside, [n, size, size]."""
        dx, dy = self._x - _flat(shape.x), self._y - _flat(shape.y)
        cos, sin = _flat(shape.angle.cos()), _flat(shape.angle.sin())
        u, v = (dx * cos + dy * sin) / _flat(shape.a), (dy * cos - dx * sin) / _flat(shape.b)
        v = v / (1 + _flat(shape.taper) * u.clamp(-1.2, 1.2)).clamp(0.2, 5)
        power = _flat(shape.power)
        radius = (u.abs().clamp(1e-3, 50) ** power + v.abs().clamp(1e-3, 50) ** power) ** (1 / power)
        if bool(shape.ragged.any()):
            radius = radius + _flat(shape.ragged) * torch.sin(5 * torch.atan2(v, u))
        return (1 - radius) * _flat(torch.minimum(shape.a, shape.b))


def draw_scenes(count: int, size: int, rng: np.random.Generator) -> Scenes:
    """``count`` scenes of ``size`` pixels a side; ``rng`` fixes them."""
    random = _Random(count, rng)
    canvas = _Canvas(size, random.between(0.0, 0.55))
    for _ in range(LEAVES):
        _leaf(canvas, size, random)
    facts = sum((_chain(canvas, size, random, chance) for chance in CHAINS), torch.zeros(()))
    noise = _noise((count, NEIGHBOURS, size, size), rng) * _wide(random.between(0, 1) ** 2 * 0.15)
    return Scenes((canvas.images + noise).clamp(0, 1), facts)


def _leaf(canvas: _Canvas, size: int, random: _Random) -> None:
    radius, stretch, half = random.log_between(2, 9), random.log_between(0.6, 1.7), size / 2
    shape = _Shape(
        x=random.between(-half, half),
        y=random.between(-half, half),
        a=radius * stretch,
        b=radius / stretch,
        angle=random.between(0, math.pi),
        power=random.log_between(1.2, 8),
        taper=random.between(-0.5, 0.5),
        ragged=torch.zeros(random.count),
    )
    width, drift = random.between(0, 2), random.between(-0.8, 0.8)
    canvas.paint(shape, _Paint(random.between(0, 1), random.between(0, 1), width, drift, random.odds(0.5)))


def _chain(canvas: _Canvas, size: int, random: _Random, chance: float) -> Tensor:
    """Paint a chain where there is one; its facts, [n, FACTS]."""
    here, radius = random.odds(chance), random.log_between(SMALLEST, LARGEST)
    stretch, power = random.log_between(0.78, 1.28), random.log_between(1.6, 8)
    fill, rim, width = random.between(0, 1), random.between(0, 1), random.between(0.5, 2)
    direction, bend, tilt = random.between(0, 2 * math.pi), random.between(-0.02, 0.02), random.between(-0.5, 0.5)
    gap = radius * random.between(2.0, 3.2)
    x0, y0 = random.between(-0.4 * size, 0.4 * size), random.between(-0.4 * size, 0.4 * size)
    odd, which, across = random.odds(0.7), (random.between(0, LINKS)).floor(), random.odds(0.5)
    flat, taper, swell = odd * random.between(0, 0.7), odd * random.between(-0.6, 0.6), odd * random.between(0, 0.35)
    ragged, grey = odd * random.odds(0.5) * random.between(0, 0.25), odd * random.between(-0.4, 0.4)
    seen = torch.zeros(random.count)
    for link in range(LINKS):
        it, along = (which == link).float(), (link - LINKS // 2) * gap
        angle = direction + bend * along
        x, y = x0 + along * torch.cos(angle), y0 + along * torch.sin(angle)
        seen = seen + it * ((x.abs() < 0.45 * size) & (y.abs() < 0.45 * size))
        thick, thin = 1 + it * swell, 1 - it * flat  # flattened one way, swollen the other
        first, second = torch.where(across > 0, thin, thick), torch.where(across > 0, thick, thin)
        shape = _Shape(
            x=x,
            y=y,
            a=radius * stretch * first,
            b=radius / stretch * second,
            angle=angle + bend * along + tilt,
            power=power,
            taper=it * taper,
            ragged=it * ragged,
        )
        drift = random.between(-0.25, 0.25)
        canvas.paint(shape, _Paint((fill + it * grey).clamp(0, 1), rim, width, drift, here))
    told = torch.stack([odd, flat, taper.abs(), swell, ragged, grey.abs()], 1) * (seen * here).unsqueeze(1)
    always = torch.stack([radius.log(), stretch.log().abs(), power.log(), rim], 1) * here.unsqueeze(1)
    return torch.cat([told, always], 1)


def _noise(shape: tuple[int, int, int, int], rng: np.random.Generator) -> Tensor:
    """Noise of power 1 whose spectrum falls with a random power of frequency from 0 to 4, each scene its own."""
    size = shape[-1]
    white: NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
    down, right = torch.fft.fftfreq(size).view(size, 1), torch.fft.rfftfreq(size).view(1, -1)
    frequency = (down**2 + right**2).sqrt().clamp_min(1 / size)
    fall = torch.from_numpy(rng.uniform(0, 2, (shape[0], 1, 1, 1)).astype(np.float32))
    made: Tensor = torch.fft.irfft2(torch.fft.rfft2(torch.from_numpy(white)) * frequency**-fall, s=(size, size))
    return made / made.std((1, 2, 3), keepdim=True)


def _flat(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1)


def _wide(value: Tensor) -> Tensor:
    return value.view(-1, 1, 1, 1)
