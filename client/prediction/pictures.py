"""Planes and maps as pictures for people."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SMALLEST_SIDE = 256
"""Pictures are enlarged to at least so many pixels a side."""
_STRONGEST = 0.6  # share of the colour where the map is 1
_NOTE_HEIGHT = 20
_FOR, _AGAINST = np.array([255, 214, 10], np.float32), np.array([60, 150, 255], np.float32)


def enlargement(size: int) -> int:
    """By which whole number planes of ``size`` pixels are enlarged."""
    return -(-SMALLEST_SIDE // size)


def plain(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A plane [size, size], enlarged: [side, side, 3]."""
    side = plane.shape[0] * enlargement(plane.shape[0])
    grey = np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC))
    return np.repeat(grey[:, :, None], 3, axis=2)


def overlaid(plane: NDArray[np.uint8], share: NDArray[np.floating], note: str = "") -> NDArray[np.uint8]:
    """A plane [size, size] under a map of it from 0 (nothing) over red to yellow (1); [side, side, 3].

    ``note`` is drawn into its lower edge.
    """
    grey = plain(plane).astype(np.float32)
    side = grey.shape[0]
    heat = Image.fromarray(share.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    strength = np.clip(np.asarray(heat), 0, 1)[:, :, None]
    colour = np.concatenate([np.full_like(strength, 255), 255 * strength, np.zeros_like(strength)], axis=2)
    mixed = grey + (colour - grey) * _STRONGEST * np.sqrt(strength)
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    if note:
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, side - _NOTE_HEIGHT, side, side), fill=(0, 0, 0))
        draw.text((4, side - _NOTE_HEIGHT + 4), note, fill=(255, 255, 255))
    return np.asarray(picture)


def signed(plane: NDArray[np.uint8], values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A plane, dimmed, under values of either sign: what speaks for the class in yellow, against it in blue.

    The scale ends at the 99.5th percentile of the values without their sign.
    """
    top = float(np.percentile(np.abs(values), 99.5)) or 1.0
    side = plane.shape[0] * enlargement(plane.shape[0])
    scaled = Image.fromarray(np.clip(values / top, -1, 1).astype(np.float32)).resize(
        (side, side), Image.Resampling.NEAREST
    )
    share = np.asarray(scaled)[:, :, None]
    grey = plain(plane) * np.float32(0.5)
    colour = np.where(share > 0, _FOR, _AGAINST)
    mixed: NDArray[np.uint8] = np.rint(grey + (colour - grey) * np.abs(share)).astype(np.uint8)
    return mixed


def data_uri(picture: NDArray[np.uint8]) -> str:
    """The picture as a PNG that a page holds in itself."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
