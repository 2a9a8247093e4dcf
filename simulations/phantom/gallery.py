"""A picture of what was written: one case of each class from each hospital, read back from its DICOM files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydicom import dcmread

from client.site import Site, load_sites
from common.errors import DataError, from_os_error
from common.files import write_atomic
from simulations.phantom.severity import LABELS

BONE, SOFT = (-500.0, 1300.0), (-160.0, 240.0)  # HU: centre 400 width 1800, centre 40 width 400


@dataclass(frozen=True)
class Volume:
    """HU, shape ``(slices from feet to head, rows, columns)``; ``pixel`` and ``step`` in mm; instance numbers."""

    units: NDArray[np.float32]
    pixel: float
    step: float
    instances: tuple[int, ...]


def draw_gallery(sites_root: Path, out: Path) -> None:
    """Write a PNG to ``out``: a row a class and window, and a sagittal and an axial view a hospital.

    The case of each class is the first of the label table whose index vertebra is L1 or T12, else the first.
    """
    sites = load_sites(sites_root)
    figure = Figure(figsize=(4.4 * len(sites), 2.2 * 2 * len(LABELS)), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2 * len(LABELS), 2 * len(sites), squeeze=False)
    for panel in axes.flat:
        panel.set_axis_off()
    for column, site in enumerate(sites):
        cases = _cases(site)
        for row, label in enumerate(LABELS):
            if label not in cases:
                continue
            patient, key = cases[label]
            volume = read_volume(site.dicom_dir / patient)
            sagittal, axial = _views(volume, key)
            for offset, window in enumerate((BONE, SOFT)):
                left, right = axes[2 * row + offset, 2 * column], axes[2 * row + offset, 2 * column + 1]
                show = {"cmap": "gray", "vmin": window[0], "vmax": window[1]}
                left.imshow(sagittal, aspect=volume.step / volume.pixel, **show)
                right.imshow(axial, **show)
            axes[2 * row, 2 * column].set_title(f"{site.name}: {label}", fontsize=9, loc="left")
    try:
        _save(figure, out)
    except OSError as error:
        raise from_os_error(error) from error


def read_volume(folder: Path) -> Volume:
    """The one series below ``folder``, by position. Raises DataError if it holds none."""
    slices = [dcmread(path) for path in sorted(folder.rglob("*")) if path.is_file()]
    if len(slices) < 2:
        raise DataError(f"'{folder}' holds {len(slices)} DICOM files; expected a series", "Write the phantom again")
    slices.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    units = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in slices])
    step = float(slices[1].ImagePositionPatient[2]) - float(slices[0].ImagePositionPatient[2])
    return Volume(
        units.astype(np.float32), float(slices[0].PixelSpacing[0]), step, tuple(int(ds.InstanceNumber) for ds in slices)
    )


def _cases(site: Site) -> dict[str, tuple[str, int]]:
    """A patient of each class, with the instance number of its key image."""
    with site.labels_file.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, tuple[str, int]] = {}
    for row in sorted(rows, key=lambda row: row.get("level") not in ("L1", "T12")):
        found.setdefault(row["label"], (row["patient_id"], int(row["key_image"])))
    return found


def _views(volume: Volume, key: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Middle sagittal plane with the head up, and the key image."""
    middle = volume.units.shape[2] // 2
    return volume.units[::-1, :, middle], volume.units[volume.instances.index(key)]


def _save(figure: Figure, out: Path) -> None:
    import io

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(out, buffer.getvalue(), mode=0o644)
