"""Ingest against its bare cost: pydicom reading and decoding the same files, in processes on the same cores."""

from __future__ import annotations

import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid
from scipy import ndimage

from client.ingest import ingest, open_cohort
from client.ingest.pool import available_cores
from client.site import DataSettings, Site, SiteConfig, create_site
from common.study import Study

SIDE = 512
SERIES = 100
"""Slices a series: 2.5 mm apart, half a trunk."""
SYNTAXES = {"uncompressed": ExplicitVRLittleEndian, "jpeg2000": JPEG2000Lossless}
_CHUNK = 16


def measure(study: Study, slices: int, out: Path) -> dict[str, Any]:
    """Write ``slices`` CT slices of each syntax under ``out``; wall seconds of decoding and of ingesting them.

    ``ratio``: ingest over bare decoding. ``bare_from_start_s``: bare decoding with the start of its processes, as a
    command of its own would take. ``again``: the second ingest of the unchanged folder.
    ``batch_ms``: reading one batch of the study from the cohort, mean of 50.
    """
    found: dict[str, Any] = {"slices": slices, "side": SIDE, "cores": available_cores()}
    for name in SYNTAXES:
        folder = out / name
        paths = write(folder / "dicom", slices, name)
        (folder / "labels.csv").write_text(
            "patient_id,label\n"
            + "".join(f"p{i},{study.task.values[i % len(study.task.values)]}\n" for i in range(slices // SERIES))
        )
        data = DataSettings(dicom="dicom", labels="labels.csv")
        site = create_site(folder, SiteConfig(name=name, data=data))
        bare, from_start = _bare(paths)
        first, again = (_ingest(site, study) for _ in range(2))
        found[name] = {
            "bare_s": bare,
            "bare_from_start_s": from_start,
            "ingest_s": first,
            "ratio": first / bare,
            "again_s": again,
            "batch_ms": 1000 * _batch(site, study),
        }
    return found


def write(folder: Path, slices: int, syntax: str) -> list[Path]:
    """``slices`` slices in series of ``SERIES``, each series with its own noise; returns their paths."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for patient in range(slices // SERIES):
        target = folder / f"{patient:03}"
        target.mkdir(parents=True)
        uids = generate_uid(), generate_uid()
        for index in range(SERIES):
            path = target / f"{index:04}"
            _slice(f"p{patient}", uids, index, _image(rng), syntax).save_as(path, enforce_file_format=True)
            paths.append(path)
    return paths


def _image(rng: np.random.Generator) -> NDArray[np.int16]:
    """A trunk of water with a spine in air, and noise as a soft kernel leaves it (20 HU)."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    image = np.where((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1, 40.0, -1000.0)
    image[(x / 0.1) ** 2 + ((y - 0.35) / 0.1) ** 2 < 1] = 300
    noise = ndimage.gaussian_filter(rng.standard_normal((SIDE, SIDE), dtype=np.float32), 0.7)
    return np.asarray(np.clip(image + 20 * noise / noise.std(), -1024, 3071), dtype=np.int16)


def _slice(patient: str, uids: tuple[str, str], index: int, image: NDArray[np.int16], syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    ds.PatientID, (ds.StudyInstanceUID, ds.SeriesInstanceUID) = patient, uids
    ds.ImageType, ds.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-200.0, -200.0, 2.5 * index], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [0.78, 0.78], 2.5
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = SIDE, SIDE, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.PixelData = (image.astype(np.int32) + 1024).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    if SYNTAXES[syntax].is_compressed:
        ds.compress(SYNTAXES[syntax], generate_instance_uid=False)
    return ds


def _bare(paths: list[Path]) -> tuple[float, float]:
    """Wall seconds of decoding, without and with the start of the processes that do it."""
    cores = available_cores()
    begun = time.monotonic()
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, [paths[:1]] * cores * 4))
        started = time.monotonic()
        list(pool.map(_decode, [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]))
        ended = time.monotonic()
    return ended - started, ended - begun


def _decode(paths: list[Path]) -> int:
    return sum(pydicom.dcmread(path).pixel_array.shape[0] for path in paths)


def _ingest(site: Site, study: Study) -> float:
    started = time.monotonic()
    ingest(site, study)
    return time.monotonic() - started


def _batch(site: Site, study: Study, repeats: int = 50) -> float:
    cohort = open_cohort(site, study)
    rng = np.random.default_rng(0)
    count = min(study.training.batch_patients * study.training.views_per_patient, len(cohort.examples))
    batches = [rng.choice(len(cohort.examples), count, replace=False) for _ in range(repeats)]
    started = time.monotonic()
    for batch in batches:
        cohort.pixels(batch)
    return (time.monotonic() - started) / repeats
