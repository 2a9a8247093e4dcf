"""A patient's thoracolumbar spine as numbers: levels, sizes, curve, wear, and the one fractured level.

Frame: patient coordinates as in DICOM, mm: x to the left, y to the back, z to the head. A vertebra
has its own frame (u left, v back, w up) with its origin in the middle of the body. Sizes follow
published morphometry (Zhou et al., Eur Spine J 2000; Panjabi et al., Spine 1991 and 1992).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from simulations.phantom.severity import Severity

LEVELS = ("L5", "L4", "L3", "L2", "L1", "T12", "T11", "T10", "T9", "T8")  # from below, as they are stacked
FRACTURE_LEVELS = {"L3": 0.10, "L2": 0.20, "L1": 0.36, "T12": 0.24, "T11": 0.10}

_HALF_WIDTH = (25.5, 24.5, 23.5, 22.5, 21.8, 20.8, 19.5, 18.3, 17.4, 16.6)
_HALF_DEPTH = (17.6, 17.4, 17.2, 16.8, 16.2, 15.6, 15.2, 14.8, 14.4, 13.8)
_HEIGHT = (28.5, 28.5, 28.0, 27.5, 26.5, 25.0, 23.5, 22.0, 21.0, 20.5)
_DISC = (11.0, 10.5, 10.0, 9.2, 8.2, 6.8, 5.6, 5.0, 4.6, 4.4)  # above the vertebra
_TILT = (-14.0, -7.0, -1.0, 4.0, 8.0, 9.5, 8.5, 6.5, 4.0, 1.5)  # degrees; positive leans back going up


@dataclass(frozen=True)
class Spot:
    """A local irregularity of an endplate or rim: where (u, v in shares of the half axes), how deep, how wide (mm)."""

    u: float
    v: float
    size: float
    width: float
    upper: bool


@dataclass(frozen=True)
class Fracture:
    """Deformation of the index vertebra. A normal patient has one too, of small numbers."""

    loss: float
    bulge: float
    wedge: float
    biconcave: float
    crush: float
    upper_share: float
    shift: float
    slope: float
    splay: float
    breakage: float
    fragments: NDArray[np.float64] = field(repr=False)
    moves: NDArray[np.float64] = field(repr=False)


@dataclass(frozen=True)
class Vertebra:
    """One vertebra: place, turn (columns are u, v, w in patient coordinates), and shape in mm."""

    level: str
    centre: NDArray[np.float64]
    turn: NDArray[np.float64]
    half_width: float
    half_depth: float
    height: float
    disc: float
    waist: float
    concavity: tuple[float, float]
    physiological_wedge: float
    pedicle: float
    canal: tuple[float, float]
    spinous: tuple[float, float]
    transverse: float
    osteophytes: tuple[Spot, ...]
    nodes: tuple[Spot, ...]
    fracture: Fracture | None

    @property
    def back(self) -> float:
        """Where the posterior wall is: its v."""
        return 0.74 * self.half_depth

    def to_patient(self, u: float, v: float, w: float) -> NDArray[np.float64]:
        """Patient coordinates of a point in the vertebra's frame."""
        return np.asarray(self.centre + self.turn @ np.array([u, v, w]))


@dataclass(frozen=True)
class Spine:
    """Vertebrae from below, and what they are made of.

    ``trabecular``: HU of cancellous bone; ``cortical``: HU of compact bone; ``cortex``: its thickness, mm.
    """

    vertebrae: tuple[Vertebra, ...]
    index: int
    trabecular: float
    cortical: float
    cortex: float
    coarseness: float


@dataclass(frozen=True)
class _Build:
    """What all vertebrae of a patient share: size, relative width, depth, height and disc, and wear (0 to 1)."""

    size: float
    habitus: NDArray[np.float64]
    wear: float


def draw_spine(severity: Severity, sex: str, rng: np.random.Generator) -> Spine:
    """A spine with its index vertebra damaged by ``severity``; the index vertebra's centre is the origin."""
    wear = float(np.clip((severity.age - 35) / 50, 0.0, 1.0))
    size = (1.0 if sex == "M" else 0.92) * float(rng.normal(1.0, 0.045))
    index = LEVELS.index(str(rng.choice(list(FRACTURE_LEVELS), p=list(FRACTURE_LEVELS.values()))))
    fracture = _draw_fracture(severity, rng)
    build = _Build(size, rng.normal(1.0, 0.05, size=4), wear)
    shapes = [_draw_shape(i, build, fracture if i == index else None, rng) for i in range(len(LEVELS))]
    vertebrae = _stack(shapes, index, rng)
    density = float(np.clip(245 - 2.3 * (severity.age - 20) + rng.normal(0, 28), 25, 280))
    return Spine(
        vertebrae=tuple(vertebrae),
        index=index,
        trabecular=density,
        cortical=float(rng.normal(1050, 80)) + density,
        cortex=float(np.clip(0.75 + 0.002 * density + rng.normal(0, 0.08), 0.5, 1.4)),
        coarseness=float(np.clip(0.22 + 0.35 * wear + rng.normal(0, 0.06), 0.1, 0.7)),
    )


def _draw_fracture(severity: Severity, rng: np.random.Generator) -> Fracture:
    """Patterns of damage. They depend on height loss and bulge alone, never on the label."""
    broken = float(np.clip((severity.bulge_mm - 1.0) / 4.5, 0.0, 1.0))
    wedge, biconcave = rng.dirichlet([2.6, 1.0])
    crush = float(np.clip(0.15 + 0.35 * broken + rng.normal(0, 0.1), 0.0, 0.75))
    count = 9
    fragments = rng.uniform(-1, 1, size=(count, 3))
    moves = fragments * [1.0, 0.9, 0.4] + rng.normal(0, 0.35, size=(count, 3))
    return Fracture(
        loss=severity.height_loss,
        bulge=severity.bulge_mm,
        wedge=float(wedge) * (1 - crush),
        biconcave=float(biconcave) * (1 - crush),
        crush=crush,
        upper_share=float(np.clip(rng.normal(0.78, 0.15), 0.3, 1.0)),
        shift=float(rng.normal(0, 2.5)),
        slope=float(rng.normal(0, 0.12)),
        splay=float(np.clip(0.55 * (severity.bulge_mm - 1.0) + rng.normal(0, 0.7), 0.0, 6.0)),
        breakage=broken,
        fragments=fragments,
        moves=moves * 2.6 * broken,
    )


def _draw_shape(
    i: int,
    build: _Build,
    fracture: Fracture | None,
    rng: np.random.Generator,
) -> Vertebra:
    """Sizes of one vertebra, not yet in place."""
    size, habitus, wear = build.size, build.habitus, build.wear
    spread = rng.normal(1.0, 0.02, size=3)
    lumbar = LEVELS[i].startswith("L")
    return Vertebra(
        level=LEVELS[i],
        centre=np.zeros(3),
        turn=np.eye(3),
        half_width=_HALF_WIDTH[i] * size * habitus[0] * spread[0],
        half_depth=_HALF_DEPTH[i] * size * habitus[1] * spread[1],
        height=_HEIGHT[i] * size * habitus[2] * spread[2],
        disc=_DISC[i] * size * float(np.clip(habitus[3] - 0.35 * wear * rng.beta(1.2, 2.5), 0.4, 1.2)),
        waist=float(rng.uniform(0.07, 0.13)),
        concavity=(float(rng.uniform(0.8, 2.2)), float(rng.uniform(1.2, 3.0))),
        physiological_wedge=float(np.clip(rng.normal(0.04 if not lumbar else 0.01, 0.025), -0.06, 0.12)),
        pedicle=float((8.2 if lumbar else 7.0) * size * rng.normal(1.0, 0.07)),
        canal=(float((23.5 if lumbar else 20.5) * size * spread[0]), float(16.5 * size * rng.normal(1.0, 0.05))),
        spinous=(float((31 if lumbar else 33) * size), 5.0 if lumbar else 17.0),
        transverse=float((37 if lumbar else 23) * size * rng.normal(1.0, 0.06)),
        osteophytes=_draw_osteophytes(wear, rng),
        nodes=_draw_nodes(rng),
        fracture=fracture,
    )


def _draw_osteophytes(wear: float, rng: np.random.Generator) -> tuple[Spot, ...]:
    """Spurs on the rim, mostly in front and at the sides of worn spines."""
    found = []
    for _ in range(rng.poisson(0.15 + 1.0 * wear)):
        angle = math.radians(float(rng.normal(-90, 55)))
        found.append(
            Spot(math.cos(angle), math.sin(angle), float(rng.gamma(2.0, 1.2)), 2.6, upper=bool(rng.random() < 0.5))
        )
    return tuple(found)


def _draw_nodes(rng: np.random.Generator) -> tuple[Spot, ...]:
    """Schmorl's nodes and shallow old irregularities of the endplates."""
    return tuple(
        Spot(
            float(rng.normal(0, 0.35)),
            float(rng.normal(0.05, 0.35)),
            float(rng.gamma(2.0, 1.1)),
            float(rng.uniform(2.5, 5.0)),
            upper=bool(rng.random() < 0.4),
        )
        for _ in range(rng.poisson(0.12))
    )


def _stack(shapes: list[Vertebra], index: int, rng: np.random.Generator) -> list[Vertebra]:
    """Put the vertebrae on top of each other along the curve; the fracture bends the spine above it forward."""
    flat = float(rng.uniform(0.5, 1.35))
    lean = float(rng.normal(0, 3.0))
    amplitude = float(np.abs(rng.normal(0, 3.0)))
    phase = float(rng.uniform(0, 2 * math.pi))
    roll = float(rng.normal(0, 3.0))
    broken = shapes[index].fracture
    kink = 0.0
    if broken is not None:
        bent = broken.loss * (broken.wedge + 0.3 * broken.crush) * shapes[index].height
        kink = math.degrees(math.atan(bent / (1.6 * shapes[index].half_depth))) * float(rng.uniform(0.35, 0.9))
    turns = []
    for i, tilt in enumerate(_TILT):
        bend = -kink if i > index else (-0.5 * kink if i == index else 0.0)
        sway = amplitude * math.sin(2 * math.pi * i / 9 + phase)
        twist = roll + 0.8 * amplitude * math.cos(2 * math.pi * i / 9 + phase)
        jitter = rng.normal(0, 0.8, size=3)
        turns.append(_rotation(flat * tilt + lean + bend + 0.4 * kink + jitter[0], sway + jitter[1], twist + jitter[2]))
    ups = [turn[:, 2] for turn in turns]
    centres = [np.zeros(3)]
    for i in range(1, len(shapes)):
        below, above = shapes[i - 1], shapes[i]
        between = (ups[i - 1] + ups[i]) / 2
        step = ups[i - 1] * _rise(below, upper=True) + between * below.disc + ups[i] * _rise(above, upper=False)
        centres.append(centres[-1] + step)
    origin = centres[index]
    return [replace(s, centre=c - origin, turn=t) for s, c, t in zip(shapes, centres, turns, strict=True)]


def _rise(vertebra: Vertebra, *, upper: bool) -> float:
    """Distance from the body's origin to the middle of its endplate, after what the fracture took."""
    half = vertebra.height / 2
    broken = vertebra.fracture
    if broken is None:
        return half
    share = broken.upper_share if upper else 1 - broken.upper_share
    return half - vertebra.height * broken.loss * share * (0.5 * broken.wedge + 0.3 * broken.biconcave + broken.crush)


def _rotation(tilt: float, sway: float, twist: float) -> NDArray[np.float64]:
    """Turn about x (tilt), y (sway), z (twist), degrees; columns are the vertebra's axes."""
    a, b, c = (math.radians(value) for value in (-tilt, sway, twist))
    about_x = np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])
    about_y = np.array([[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]])
    about_z = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_x @ about_y @ about_z)
