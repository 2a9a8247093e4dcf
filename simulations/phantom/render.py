"""From a spine to a volume in Hounsfield units, before the scanner blurs it and adds noise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.ndimage import gaussian_filter

from simulations.phantom.anatomy import Spine, Vertebra
from simulations.phantom.grid import Grid, Region
from simulations.phantom.implicit import Field, cover
from simulations.phantom.surroundings import Surroundings, paint_ribs, paint_surroundings
from simulations.phantom.vertebra import Bone, Edges, arch, body

CLEFT_HU = 45.0
IMPACTION_HU = 320.0


def render(spine: Spine, around: Surroundings, grid: Grid, rng: np.random.Generator) -> Field:
    """The patient on ``grid``: float32 HU, shape ``(slices, columns, columns)``."""
    volume = paint_surroundings(spine, around, grid, rng)
    edges = Edges(in_plane=grid.pixel, through=grid.step)
    texture = _texture(grid, rng)
    _paint_discs(volume, spine, grid, edges, rng)
    paint_ribs(volume, spine, grid)
    _paint_bones(volume, spine, grid, texture, edges)
    return volume


def _texture(grid: Grid, rng: np.random.Generator) -> Field:
    """Trabecular pattern, mean 0 and standard deviation 1: struts run mostly up and down."""
    white = rng.standard_normal((grid.slices, grid.columns, grid.columns), dtype=np.float32)
    sigma = (2.6 / grid.step, 1.1 / grid.pixel, 1.1 / grid.pixel)
    smooth: Field = gaussian_filter(white, sigma, mode="wrap", truncate=3.0)
    scaled: Field = smooth / smooth.std()
    return scaled


def _paint_discs(volume: Field, spine: Spine, grid: Grid, edges: Edges, rng: np.random.Generator) -> None:
    """Discs fill the room between bodies; the bodies, painted later, give them their true faces."""
    for below, above in zip(spine.vertebrae[:-1], spine.vertebrae[1:], strict=True):
        faces = (
            below.to_patient(0, 0, below.height / 2 - _lost(below, upper=True)),
            above.to_patient(0, 0, -above.height / 2 + _lost(above, upper=False)),
        )
        centre, turn = (faces[0] + faces[1]) / 2, (below.turn + above.turn) / 2
        a, b = (0.5 * (below.half_width + above.half_width), 0.5 * (below.half_depth + above.half_depth))
        sunk = max(v.height * v.fracture.loss if v.fracture else 0.0 for v in (below, above))
        half = 0.5 * below.disc + 3.5 + 0.6 * sunk
        found = grid.block(centre, turn, (a + 4, b + 4, half + 3))
        bulge = float(rng.uniform(0.0, 1.6))
        level = float(rng.normal(82, 8))
        if found is None:
            continue
        region, (u, v, w) = found
        rho = np.sqrt((u * np.float32(1 / a)) ** 2 + (v * np.float32(1 / b)) ** 2)
        wall = np.maximum((rho - 1) * np.float32(b) - np.float32(bulge), v - np.float32(0.74 * b + 0.6 * bulge))
        share = cover(wall, edges.in_plane) * cover(np.abs(w) - np.float32(half), edges.through)
        nucleus = np.float32(level) - np.float32(14) * np.exp(rho * rho * np.float32(-3.0))
        part = volume[region]
        part += (nucleus - part) * share


def _lost(vertebra: Vertebra, *, upper: bool) -> float:
    broken = vertebra.fracture
    if broken is None:
        return 0.0
    share = broken.upper_share if upper else 1 - broken.upper_share
    return vertebra.height * broken.loss * share * 0.6


def _paint_bones(volume: Field, spine: Spine, grid: Grid, texture: Field, edges: Edges) -> None:
    """Unite all bone first, so that no compact shell runs inside (a pedicle's in its body), then paint it."""
    whole, core, dense, gap = (np.zeros_like(volume) for _ in range(4))
    for vertebra in spine.vertebrae:
        for region, bone in _parts(vertebra, grid, edges, spine.cortex):
            np.maximum(whole[region], bone.whole, out=whole[region])
            np.maximum(core[region], bone.core, out=core[region])
            dense[region] += bone.dense
            gap[region] += bone.gap * bone.whole
    marrow = np.float32(spine.trabecular) * (1 + np.float32(spine.coarseness) * texture)
    marrow += np.float32(IMPACTION_HU) * dense
    marrow += (np.float32(CLEFT_HU) - marrow) * np.float32(0.75) * gap
    compact = np.float32(spine.cortical) * (1 - np.float32(0.65) * gap)
    volume *= 1 - whole
    volume += marrow * core + compact * (whole - core)


def _parts(vertebra: Vertebra, grid: Grid, edges: Edges, cortex: float) -> Iterator[tuple[Region, Bone]]:
    """Body and arch of one vertebra, each with the block of the volume that holds it."""
    reach = (vertebra.half_width + 8, vertebra.half_depth + 9, vertebra.height / 2 + 6)
    found = grid.block(vertebra.centre, vertebra.turn, reach)
    if found is not None:
        yield found[0], body(vertebra, found[1], edges, cortex)
    long, drop = vertebra.spinous
    low, high = -0.34 * vertebra.height - drop - 12, 0.62 * vertebra.height + 8
    front, back = vertebra.back - 12, vertebra.back + vertebra.canal[1] + 3 + long + 4
    middle = (0.0, (front + back) / 2, (low + high) / 2)
    reach = (vertebra.transverse + 7, (back - front) / 2, (high - low) / 2)
    found = grid.block(vertebra.to_patient(*middle), vertebra.turn, reach)
    if found is not None:
        u, v, w = (p + np.float32(m) for p, m in zip(found[1], middle, strict=True))
        yield found[0], arch(vertebra, (u, v, w), edges, cortex)
