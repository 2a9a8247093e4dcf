"""The shape of one vertebra as implicit surfaces: body with endplates and posterior wall, and the arch.

All functions take points in the vertebra's own frame (u left, v back, w up, mm).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.phantom.anatomy import Fracture, Vertebra
from simulations.phantom.implicit import Field, Points, bell, capsule, cover, ellipsoid, smooth_max, smooth_min


@dataclass(frozen=True)
class Edges:
    """Width of a voxel across walls (in the slice) and across endplates (through the slices), mm."""

    in_plane: float
    through: float


@dataclass(frozen=True)
class Bone:
    """Shares of a voxel: ``whole`` bone, of which ``core`` is cancellous; ``dense`` is impaction, ``gap`` a cleft."""

    whole: Field
    core: Field
    dense: Field
    gap: Field


def body(vertebra: Vertebra, points: Points, edges: Edges, cortex: float) -> Bone:
    """The vertebral body, ``cortex`` mm thick at its walls and somewhat less at its endplates."""
    broken = vertebra.fracture
    gap: Field = np.zeros_like(points[0])
    if broken is not None and broken.breakage > 0.02:
        points, gap = _break_up(vertebra, broken, points)
    u, v, w = points
    un, vn = u * np.float32(1 / vertebra.half_width), v * np.float32(1 / vertebra.half_depth)
    rho = np.sqrt(un * un + vn * vn) + np.float32(1e-6)
    top, bottom, dense = _endplates(vertebra, un, vn, rho, w)
    side = _walls(vertebra, (un, vn, rho), w, (top, bottom))
    wall = smooth_max(side, v - _posterior_wall(vertebra, u, w), 3.0)
    ends = np.maximum(w - top, bottom - w)
    scale_wall, scale_end = np.float32(1 / edges.in_plane), np.float32(1 / edges.through)
    outer = np.maximum(wall * scale_wall, ends * scale_end)
    inner = np.maximum((wall + np.float32(cortex)) * scale_wall, (ends + np.float32(0.8 * cortex)) * scale_end)
    return Bone(cover(outer, 1.0), cover(inner, 1.0), dense, gap)


def arch(vertebra: Vertebra, points: Points, edges: Edges, cortex: float) -> Bone:
    """Pedicles, laminae, facets, transverse and spinous processes, as one rounded union."""
    width = 0.5 * (edges.in_plane + edges.through)
    distance = _arch_distance(vertebra, points)
    zero = np.zeros_like(distance)
    return Bone(cover(distance, width), cover(distance + np.float32(1.25 * cortex), width), zero, zero)


def _endplates(vertebra: Vertebra, un: Field, vn: Field, rho: Field, w: Field) -> tuple[Field, Field, Field]:
    """Heights of the upper and lower endplate over (u, v), and impacted bone under the one that gave way."""
    half = np.float32(vertebra.height / 2)
    bowl = np.clip(1 - rho * rho, 0, 1)
    front = np.clip((np.float32(0.7) - vn) * np.float32(1 / 1.5), 0, 1.1)
    physiological = np.float32(vertebra.physiological_wedge * vertebra.height) * front
    top = half - np.float32(vertebra.concavity[0]) * bowl - physiological * np.float32(0.5)
    bottom = -half + np.float32(vertebra.concavity[1]) * bowl + physiological * np.float32(0.5)
    for spot in vertebra.nodes:
        du = (un - np.float32(spot.u)) * np.float32(vertebra.half_width)
        dv = (vn - np.float32(spot.v)) * np.float32(vertebra.half_depth)
        pit = np.float32(spot.size) * np.exp((du * du + dv * dv) * np.float32(-0.5 / spot.width**2))
        if spot.upper:
            top = top - pit
        else:
            bottom = bottom + pit
    broken = vertebra.fracture
    if broken is None:
        return top, bottom, np.zeros_like(w)
    lost = (
        np.float32(broken.wedge) * front
        + np.float32(broken.biconcave) * np.exp(rho * rho * np.float32(-1.6))
        + np.float32(broken.crush)
    ) * (1 + np.float32(broken.slope) * un)
    lost = lost * np.float32(broken.loss * vertebra.height)
    top = top - lost * np.float32(broken.upper_share)
    bottom = bottom + lost * np.float32(1 - broken.upper_share)
    depth = np.float32(0.30 * vertebra.height * broken.loss)
    under = np.exp(-(((top - w - depth) / (depth + np.float32(1.5))) ** 2))
    dense = under * np.clip(lost * np.float32(0.16), 0, 1)
    return top, bottom, dense


def _walls(vertebra: Vertebra, flat: Points, w: Field, ends: tuple[Field, Field]) -> Field:
    """Distance to the round wall: waisted, with spurs at the rims; a broken body bulges and buckles in front."""
    (un, vn, rho), (top, bottom) = flat, ends
    # Behind the posterior wall the outline stays as wide as there, so that only that wall limits a fragment.
    outline = np.sqrt(un * un + np.minimum(vn, np.float32(vertebra.back / vertebra.half_depth)) ** 2)
    middle, half = (top + bottom) * np.float32(0.5), np.maximum((top - bottom) * np.float32(0.5), np.float32(3))
    rise = np.clip((w - middle) / half, -1.3, 1.3)
    reach = 1 - np.float32(vertebra.waist) * np.clip(1 - rise * rise, 0, 1)
    for spot in vertebra.osteophytes:
        toward = (un * np.float32(spot.u) + vn * np.float32(spot.v)) / rho
        rim = top if spot.upper else bottom
        spur = np.exp(np.float32(5) * (toward - 1)) * bell(w - rim, 0.0, spot.width)
        reach = reach + np.float32(spot.size / vertebra.half_depth) * spur
    broken = vertebra.fracture
    if broken is not None:
        forward = np.clip(-vn / rho, 0, 1)
        reach = reach + np.float32(0.30 * broken.loss) * forward * bell(rise, 0.45, 0.4)
        reach = reach + np.float32(0.010 * broken.bulge * broken.breakage)
    distance: Field = (outline / reach - 1) * np.float32(min(vertebra.half_depth, vertebra.half_width))
    return distance


def _posterior_wall(vertebra: Vertebra, u: Field, w: Field) -> Field:
    """Where the posterior wall is over (u, w), as v: slightly hollow, and pushed into the canal where it gave way."""
    hollow = np.float32(0.09 * vertebra.half_depth) * np.clip(
        1 - (u * np.float32(1 / (0.55 * vertebra.half_width))) ** 2, 0, 1
    )
    wall: Field = np.float32(vertebra.back) - hollow
    broken = vertebra.fracture
    if broken is None:
        return wall
    # The typical fragment is the upper back corner between the pedicles (Denis 1983).
    high = vertebra.height * (0.5 - 0.5 * broken.loss * broken.upper_share * broken.crush)
    push = bell(u, broken.shift, 8.5) * bell(w, high - 0.28 * vertebra.height, 0.26 * vertebra.height)
    return wall + np.float32(broken.bulge * (1.0 + 0.09 * broken.breakage)) * push


def _break_up(vertebra: Vertebra, broken: Fracture, points: Points) -> tuple[Points, Field]:
    """Split the body into cells that move apart: points as the unbroken shape sees them, and the clefts."""
    scale = (vertebra.half_width, vertebra.half_depth, 0.45 * vertebra.height)
    scaled = [p * np.float32(1 / s) for p, s in zip(points, scale, strict=True)]
    nearest = np.full_like(scaled[0], np.inf)
    second = np.full_like(scaled[0], np.inf)
    shift = [np.zeros_like(scaled[0]) for _ in range(3)]
    for seed, move in zip(broken.fragments, broken.moves, strict=True):
        gaps = [(s - np.float32(c)) ** 2 for s, c in zip(scaled, seed, strict=True)]
        distance = gaps[0] + gaps[1] + gaps[2]
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest = np.where(closer, distance, nearest)
        for axis in range(3):
            shift[axis] = np.where(closer, np.float32(move[axis]), shift[axis])
    apart = np.sqrt(second) - np.sqrt(nearest)
    gap = np.float32(broken.breakage) * np.clip(1 - apart * np.float32(7), 0, 1)
    moved = (points[0] - shift[0], points[1] - shift[1], points[2] - shift[2])
    return moved, gap


def _arch_distance(vertebra: Vertebra, points: Points) -> Field:
    """Signed distance to the posterior elements, built for one side and mirrored."""
    u, v, w = points
    splay = vertebra.fracture.splay / 2 if vertebra.fracture is not None else 0.0
    side = (np.abs(u) - np.float32(splay), v, w)
    back, height = vertebra.back, vertebra.height
    wide, deep = vertebra.canal[0] / 2, vertebra.canal[1]
    pedicle = vertebra.pedicle / 2
    root = wide + pedicle
    lamina_top = back + deep + 3.0
    parts = [
        capsule(side, (root, back - 6, 0.16 * height), (root + 1, back + 9, 0.15 * height), pedicle, (1, 1, 1.7)),
        capsule(side, (root, back + 10, 0.45 * height), (root - 2, back + 12, 0.62 * height), 5.2, (1.2, 0.9, 1)),
        capsule(side, (root - 3, back + 14, -0.25 * height), (root - 4, back + 16, -0.60 * height), 5.0, (1.1, 0.9, 1)),
        capsule(side, (root - 1, back + 11, 0.2 * height), (root - 3, back + 14, -0.3 * height), 4.2, (1.2, 1, 1)),
        capsule(side, (root - 2, back + 12, -0.05 * height), (0, lamina_top, -0.22 * height), 2.9, (1, 1, 3.0)),
        capsule(
            side, (root + 2, back + 9, 0.08 * height), (vertebra.transverse, back + 13, 0.05 * height), 3.4, (1, 1, 1.5)
        ),
    ]
    distance = parts[0]
    for part in parts[1:]:
        distance = smooth_min(distance, part, 3.0)
    long, drop = vertebra.spinous
    mid = (u, v, w)
    blade = capsule(
        mid, (0, lamina_top, -0.25 * height), (0, lamina_top + long - 6, -0.3 * height - drop), 3.0, (1.05, 1, 2.9)
    )
    tip = ellipsoid(mid, (0, lamina_top + long - 5, -0.34 * height - drop), (4.6, 4.5, 9.0))
    return smooth_min(smooth_min(distance, blade, 3.0), tip, 3.0)
