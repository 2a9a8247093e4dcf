"""What lies around the spine: skin, fat, muscle, organs, vessels, lung, ribs, canal contents, table, air."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.ndimage import zoom

from simulations.phantom.anatomy import LEVELS, Spine
from simulations.phantom.grid import Grid
from simulations.phantom.implicit import Field, capsule, cover

AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU = -1000.0, -840.0, -105.0, 52.0
RIB_SEGMENTS = ((26.0, 14.0, 2.0), (44.0, 30.0, -4.0), (68.0, 38.0, -14.0), (96.0, 28.0, -30.0), (118.0, 4.0, -46.0))


@dataclass(frozen=True)
class Surroundings:
    """Soft parts of one patient. Lengths in mm, levels in HU."""

    half_width: float
    half_depth: float
    fat: float
    skin_gap: float
    muscle_size: float
    muscle_fat: float
    aorta: float
    vessel: float
    organ: float
    calcified: bool
    lung_floor: float
    table_gap: float
    table_tilt: float


def draw_surroundings(age: float, sex: str, rng: np.random.Generator) -> Surroundings:
    """Soft parts of a patient of ``age`` years; one in three scans is contrast-enhanced."""
    stout = float(rng.beta(2.0, 3.0))
    wear = float(np.clip((age - 30) / 60, 0, 1))
    contrast = float(rng.uniform(70, 190)) if rng.random() < 0.35 else 0.0
    return Surroundings(
        half_width=150 + 60 * stout + float(rng.normal(0, 8)),
        half_depth=95 + 45 * stout + float(rng.normal(0, 5)),
        fat=6 + 38 * stout * (1.1 if sex == "F" else 0.85),
        skin_gap=float(rng.uniform(3, 8)),
        muscle_size=float(np.clip(rng.normal(1.05 if sex == "M" else 0.92, 0.08) - 0.12 * wear, 0.7, 1.25)),
        muscle_fat=float(np.clip(rng.normal(0.15 + 0.45 * wear, 0.12), 0.02, 0.8)),
        aorta=float(rng.uniform(9, 12.5) + 2.5 * wear),
        vessel=42 + contrast,
        organ=float(rng.normal(48, 6)) + 0.4 * contrast,
        calcified=bool(rng.random() < 0.75 * wear),
        lung_floor=float(rng.normal(18, 16)),
        table_gap=float(rng.uniform(1.0, 9.0)),
        table_tilt=float(rng.normal(0, 0.012)),
    )


@dataclass(frozen=True)
class _Course:
    """The spine's course, one value a slice, shape ``(slices, 1, 1)``: middle of the bodies and of the canal."""

    body_x: Field
    body_y: Field
    canal_x: Field
    canal_y: Field
    width: Field
    depth: Field
    canal_half: Field


@dataclass(frozen=True)
class _Scene:
    """What the painters need: the spine's course, the patient, the coordinates (broadcastable), patchiness."""

    course: _Course
    around: Surroundings
    x: Field
    y: Field
    z: Field
    mottle: Field
    pixel: float


def _course(spine: Spine, z: Field) -> _Course:
    bodies = np.array([v.centre for v in spine.vertebrae])
    canals = np.array([v.to_patient(0, v.back + v.canal[1] / 2, 0) for v in spine.vertebrae])

    def along(heights: Field, values: Field) -> Field:
        return np.interp(z, heights, values).astype(np.float32)[:, None, None]

    own = bodies[:, 2]
    return _Course(
        body_x=along(own, bodies[:, 0]),
        body_y=along(own, bodies[:, 1]),
        canal_x=along(canals[:, 2], canals[:, 0]),
        canal_y=along(canals[:, 2], canals[:, 1]),
        width=along(own, np.array([v.half_width for v in spine.vertebrae])),
        depth=along(own, np.array([v.half_depth for v in spine.vertebrae])),
        canal_half=along(canals[:, 2], np.array([v.canal[1] / 2 for v in spine.vertebrae])),
    )


def paint_surroundings(spine: Spine, around: Surroundings, grid: Grid, rng: np.random.Generator) -> Field:
    """Everything but bone and discs: float32 HU, shape ``(slices, columns, columns)``."""
    course = _course(spine, grid.z)
    x, y, z = grid.x[None, None, :], grid.y[None, :, None], grid.z[:, None, None]
    mottle = _mottle((grid.slices, grid.columns, grid.columns), rng)
    scene = _Scene(course, around, x, y, z, mottle, grid.pixel)
    # The back is flat on the table: the skin follows the mean course, not each vertebra.
    back = float(course.canal_y.mean()) + 44 + around.fat * 0.8 + around.skin_gap
    middle_x, middle_y = float(course.body_x.mean()), back - around.half_depth
    skin = _oval(x - middle_x, y - middle_y, around.half_width, around.half_depth)
    volume = np.full((grid.slices, grid.columns, grid.columns), AIR_HU, dtype=np.float32)
    _paint_table(volume, x - middle_x, y - back, around, grid.pixel)
    _lay(volume, FAT_HU + 9 * mottle, cover(skin, grid.pixel))
    _lay(volume, np.float32(20), cover(np.abs(skin + 0.9) - np.float32(0.9), grid.pixel))
    _paint_organs(volume, scene)
    _paint_muscles(volume, scene)
    _paint_vessels(volume, scene)
    _paint_canal(volume, course, x, y, grid.pixel)
    return volume


def paint_ribs(volume: Field, spine: Spine, grid: Grid) -> None:
    """The pair of ribs at each thoracic vertebra: thin shells with marrow; the twelfth is short."""
    for vertebra in spine.vertebrae:
        if not vertebra.level.startswith("T"):
            continue
        floating = LEVELS.index(vertebra.level) == LEVELS.index("T12")
        for side in (-1.0, 1.0):
            joints = [(side * u, vertebra.back - 14 + v, 0.2 * vertebra.height + w) for u, v, w in RIB_SEGMENTS]
            for start, end in pairwise(joints):
                if floating and abs(start[0]) > 60:
                    break
                middle = [(s + e) / 2 for s, e in zip(start, end, strict=True)]
                reach = [abs(e - s) / 2 + 10 for s, e in zip(start, end, strict=True)]
                centre = vertebra.to_patient(middle[0], middle[1], middle[2])
                found = grid.block(centre, vertebra.turn, (reach[0], reach[1], reach[2]))
                if found is None:
                    continue
                u, v, w = (p + np.float32(m) for p, m in zip(found[1], middle, strict=True))
                rod = capsule((u, v, w), start, end, 3.2, (1.0, 1.0, 1.7))
                whole, core = cover(rod, grid.pixel), cover(rod + np.float32(1.1), grid.pixel)
                part = volume[found[0]]
                marrow = 0.8 * spine.trabecular
                part += whole * (np.float32(spine.cortical * 0.85) - part)
                part += core * (np.float32(marrow) - part)


def _oval(x: Field, y: Field, half_x: float | Field, half_y: float | Field) -> Field:
    """Distance to an ellipse, about right near its edge."""
    scaled = np.sqrt((x / half_x) ** 2 + (y / half_y) ** 2)
    return np.asarray((scaled - 1) * np.minimum(half_x, half_y), dtype=np.float32)


def _lay(volume: Field, value: Field | np.float32 | float, share: Field) -> None:
    """Blend ``value`` over the volume where ``share`` is not 0."""
    volume += share * (value - volume)


def _mottle(shape: tuple[int, int, int], rng: np.random.Generator) -> Field:
    """Smooth patchiness about 12 mm across, mean 0 and standard deviation 1."""
    coarse = tuple(max(4, math.ceil(n / 9)) for n in shape)
    white = rng.standard_normal(coarse, dtype=np.float32)
    smooth = np.asarray(zoom(white, [n / c for n, c in zip(shape, coarse, strict=True)], order=1), dtype=np.float32)
    scaled: Field = (smooth - smooth.mean()) / smooth.std()
    return scaled


def _paint_table(volume: Field, x: Field, y: Field, around: Surroundings, pixel: float) -> None:
    """The curved carbon top, foam inside, and the mattress above it; the same in every slice."""
    surface = y - np.float32(around.table_gap) + x * x * np.float32(1 / 1100) + x * np.float32(around.table_tilt)
    _lay(volume, -930.0, cover(np.abs(surface - 5) - np.float32(5), pixel))
    _lay(volume, -120.0, cover(np.abs(surface - 11) - np.float32(0.8), pixel))
    _lay(volume, -960.0, cover(np.abs(surface - 26) - np.float32(13), pixel))


def _paint_organs(volume: Field, scene: _Scene) -> None:
    """Liver (right), spleen and kidneys, bowel in front, crura, and lung behind above the diaphragm."""
    course, around, pixel = scene.course, scene.around, scene.pixel
    x, y, z, mottle = scene.x, scene.y, scene.z, scene.mottle
    dx, dy = x - course.body_x, y - course.body_y
    wall = cover(_oval(dx, dy + 58, around.half_width - around.fat - 14, around.half_depth - around.fat * 0.7), pixel)
    _lay(volume, np.float32(around.organ) + 3 * mottle, wall * cover(_oval(dx + 92, dy + 40, 62, 60), pixel))
    _lay(volume, np.float32(around.organ), wall * cover(_oval(dx - 98, dy + 18, 34, 42), pixel))
    for side in (-1.0, 1.0):
        rise = z + 22 - 6 * side
        half = np.sqrt(np.clip(1 - (rise / 58) ** 2, 0, 1)).astype(np.float32)
        kidney = _oval(dx - side * 62, dy - 2, 26 * half + 0.1, 30 * half + 0.1)
        sinus = _oval(dx - side * 54, dy + 2, 11 * half + 0.1, 12 * half + 0.1)
        _lay(volume, np.float32(0.75 * around.vessel + 8), cover(kidney, pixel) * (half > 0.05))
        _lay(volume, np.float32(-70), cover(sinus, pixel) * (half > 0.05))
    gut = np.clip(mottle * np.float32(1.4) - np.float32(0.2), 0, 1) * cover(dy + np.float32(52), pixel) * wall
    _lay(volume, 32.0, gut * cover(np.abs(dx) - 55, pixel))
    gas = np.clip(mottle * np.float32(3) - np.float32(4.8), 0, 1) * cover(dy + np.float32(66), pixel)
    _lay(volume, -850.0, gas * cover(np.abs(dx) - 50, pixel))
    # The recess behind and beside the diaphragm reaches further down than the lung in front of it.
    floor = np.float32(around.lung_floor + 38) - np.float32(0.0035) * dx * dx - np.float32(0.3) * (dy + 22)
    aired = cover(floor - z, 4.0) * cover(_oval(np.abs(dx) - 72, dy + 22, 44, 52), pixel)
    _lay(volume, np.float32(LUNG_HU) + 18 * mottle, aired)


def _paint_muscles(volume: Field, scene: _Scene) -> None:
    """Erector spinae beside the spinous processes, psoas beside the lumbar bodies, crura in front; fat between."""
    course, around, pixel = scene.course, scene.around, scene.pixel
    x, y, z, mottle = scene.x, scene.y, scene.z, scene.mottle
    dx, dy = np.abs(x - course.canal_x), y - course.canal_y
    lean = np.float32(MUSCLE_HU)
    streaks = np.clip(mottle * np.float32(0.7) + np.float32(around.muscle_fat * 1.6 - 0.6), 0, 1)
    meat = lean + (np.float32(FAT_HU) - lean) * np.float32(0.75) * streaks
    s = around.muscle_size
    long = np.minimum(_oval(dx - 14 * s, dy - 23, 15 * s, 18), _oval(dx - 36 * s, dy - 18, 21 * s, 19 * s))
    _lay(volume, meat, cover(long, pixel))
    flank = _oval(dx - 62 * s, dy + 2, 17 * s, 15)
    below = cover(z + 8, 30.0)
    _lay(volume, meat, cover(flank, pixel) * below)
    size = np.clip((np.float32(30) - z) * np.float32(1 / 80), 0.0, 1.25) * np.float32(s)
    beside = dx - course.width - 4 - 9 * size
    psoas = _oval(beside, y - course.body_y - 4, 14 * size + 0.5, 20 * size + 0.5)
    _lay(volume, lean + 4 * mottle, cover(psoas, pixel))
    front = y - course.body_y + course.depth
    crus = np.maximum(np.abs(front + 3) - 4, dx - course.width * 0.85)
    _lay(volume, lean, cover(crus, pixel) * cover(-z - 45, 20.0) * np.float32(0.8))


def _paint_vessels(volume: Field, scene: _Scene) -> None:
    """Aorta in front and to the left, calcified in some; vena cava to the right."""
    course, around, pixel = scene.course, scene.around, scene.pixel
    x, y, z = scene.x, scene.y, scene.z
    front = course.body_y - course.depth
    aorta = _oval(
        x - course.body_x - np.float32(7) - np.float32(0.05) * z,
        y - front + np.float32(around.aorta + 4),
        around.aorta,
        around.aorta,
    )
    cava = _oval(x - course.body_x + 21, y - front + 13, 12.5, 9.0)
    _lay(volume, np.float32(0.8 * around.vessel), cover(cava, pixel))
    _lay(volume, np.float32(around.vessel), cover(aorta, pixel))
    if around.calcified:
        turn = np.arctan2(y - front + around.aorta + 4, x - course.body_x - 7)
        patch = np.sin(2 * turn + 0.13 * z) * np.sin(0.09 * z + turn) > 0.45
        _lay(volume, 620.0, cover(np.abs(aorta + 0.8) - np.float32(0.9), pixel) * patch)


def _paint_canal(volume: Field, course: _Course, x: Field, y: Field, pixel: float) -> None:
    """Epidural fat with the dural sac in it, the cord a little denser than the fluid."""
    dx, dy = x - course.canal_x, y - course.canal_y
    _lay(volume, np.float32(-65), cover(_oval(dx, dy, 11.5, course.canal_half + 1.5), pixel))
    _lay(volume, np.float32(18), cover(_oval(dx, dy + 0.6, 8.6, course.canal_half - 0.6), pixel))
    _lay(volume, np.float32(40), cover(_oval(dx, dy + 0.6, 4.8, 4.0), pixel))
