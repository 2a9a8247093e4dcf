"""Write a scan as CT Image Storage (DICOM PS3.3 A.3), with the modules and habits of a real scanner.

Names, dates and UIDs follow from the seed, so the same seed gives the same bytes. Nothing may look
like a person: names are ``PHANTOM^0001``, identifiers ``PH-0001``, institutions ``Phantom Hospital``.
"""

from __future__ import annotations

import datetime as dt
import io
import os
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import encode_array
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import UID, CTImageStorage

from common.files import fsync_folder
from simulations.phantom.patient import Findings, Patient, Scan
from simulations.phantom.scanner import EXPLICIT, IMPLICIT, JPEG2000, instance_number

_NAMESPACE = uuid.UUID("6f1b3d52-7c0e-5c1a-9d54-2f7d9e0b41aa")
IMPLEMENTATION = f"2.25.{uuid.uuid5(_NAMESPACE, 'fedct phantom').int}"


def derive_uid(*parts: object) -> str:
    """A UUID-based UID (PS3.5 B.2) that depends on ``parts`` alone."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(str(part) for part in parts)).int}"


def write_series(folder: Path, patient: Patient, findings: Findings, scan: Scan) -> None:
    """Write one file a slice into the new folder ``folder`` and make them durable. OSError passes through."""
    folder.mkdir(parents=True)
    header = _series_header(patient, findings, scan)
    rng = patient.generator(3)
    table = _draw_table(rng)
    count = len(scan.pixels)
    names = rng.permutation(count) if patient.scanner.file_style == "{:08d}" else np.arange(count)
    for index in range(count):
        dataset = _slice(header, patient, scan, index, table)
        path = folder / patient.scanner.file_style.format(int(names[dataset.InstanceNumber - 1]) + 1)
        whole = io.BytesIO()  # pydicom would hide the error number of a full disk
        dcmwrite(whole, dataset, enforce_file_format=True)
        with path.open("xb") as file:
            file.write(whole.getbuffer())
            file.flush()
            os.fsync(file.fileno())
    fsync_folder(folder)


def table_height(patient: Patient) -> float:
    """Z in mm that the files give to the middle of the index vertebra (x 0, y -150)."""
    return _draw_table(patient.generator(3))


def _draw_table(rng: np.random.Generator) -> float:
    return round(float(rng.uniform(-900, -200)), 1)


def _series_header(patient: Patient, findings: Findings, scan: Scan) -> Dataset:
    """Everything that all slices share: patient, study, series, equipment, protocol."""
    scanner, rng = patient.scanner, patient.generator(4)
    when = dt.datetime(2015, 1, 1, 7) + dt.timedelta(minutes=int(rng.integers(0, 4 * 365 * 24 * 60)))  # noqa: DTZ001 - DICOM times carry no zone here
    day, clock = when.strftime("%Y%m%d"), when.strftime("%H%M%S")
    key = (patient.seed, patient.number)
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = day
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = clock
    ds.AccessionNumber = f"A{patient.number:06d}"
    ds.Modality = "CT"
    ds.Manufacturer = scanner.manufacturer
    ds.InstitutionName = f"Phantom Hospital {patient.site + 1}"
    ds.ReferringPhysicianName = ""
    ds.StationName = f"CT{patient.site + 1:02d}"
    ds.StudyDescription = "CT thoracolumbar spine"
    ds.SeriesDescription = f"Spine {scanner.thickness:g} {scanner.kernel}"
    ds.ManufacturerModelName = scanner.model
    _describe_patient(ds, patient, findings)
    ds.StudyInstanceUID = derive_uid(*key, "study")
    ds.SeriesInstanceUID = derive_uid(*key, "series")
    ds.StudyID = str(int(rng.integers(1000, 99999)))
    ds.SeriesNumber = int(rng.integers(2, 9))
    ds.AcquisitionNumber = 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.FrameOfReferenceUID = derive_uid(*key, "frame")
    ds.PositionReferenceIndicator = "XY"
    _describe_acquisition(ds, patient, rng)
    _describe_pixels(ds, patient, scan)
    return ds


def _describe_patient(ds: Dataset, patient: Patient, findings: Findings) -> None:
    """Patient and Patient Study modules."""
    ds.PatientName = f"PHANTOM^{patient.number:04d}"
    ds.PatientID = patient.patient_id
    ds.PatientBirthDate = ""
    ds.PatientSex = findings.sex
    ds.PatientAge = f"{findings.age:03d}Y"


def _describe_acquisition(ds: Dataset, patient: Patient, rng: np.random.Generator) -> None:
    """Equipment, and what the console says about the protocol."""
    scanner = patient.scanner
    ds.BodyPartExamined = "SPINE"
    ds.ScanOptions = "HELICAL MODE" if scanner.manufacturer.startswith("GE") else "HELIX"
    ds.SliceThickness = scanner.thickness
    ds.KVP = scanner.kvp
    ds.SpacingBetweenSlices = scanner.step
    ds.DataCollectionDiameter = 500
    ds.DeviceSerialNumber = str(10000 + 37 * patient.site)
    ds.SoftwareVersions = scanner.software
    ds.ProtocolName = "Spine"
    ds.ReconstructionDiameter = scanner.field_of_view
    ds.GantryDetectorTilt = 0
    ds.TableHeight = round(float(rng.uniform(120, 180)), 1)
    ds.RotationDirection = "CW"
    ds.ExposureTime = int(rng.integers(500, 1000))
    ds.XRayTubeCurrent = int(scanner.exposure * rng.uniform(0.9, 1.6))
    ds.Exposure = scanner.exposure
    ds.FilterType = "BODY"
    ds.FocalSpots = 1.2
    ds.ConvolutionKernel = scanner.kernel
    ds.PatientPosition = "HFS"


def _describe_pixels(ds: Dataset, patient: Patient, scan: Scan) -> None:
    """Image Pixel and CT Image modules, and the window that the console would show."""
    scanner = patient.scanner
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = scan.pixels.shape[1:]
    ds.PixelSpacing = [scanner.pixel, scanner.pixel]
    wide = scanner.signed or scanner.intercept < -1024
    ds.BitsAllocated = 16
    ds.BitsStored = 16 if wide else 12
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(scanner.signed)
    ds.WindowCenter, ds.WindowWidth = (400, 1800) if scanner.edge > 0.3 else (40, 400)
    ds.RescaleIntercept = scanner.intercept
    ds.RescaleSlope = 1
    ds.RescaleType = "HU"


def _slice(header: Dataset, patient: Patient, scan: Scan, index: int, table: float) -> Dataset:
    """The dataset of one slice: the shared header, its place, and its pixels."""
    scanner, grid = patient.scanner, scan.grid
    instance = instance_number(scanner, index)
    height = round(table + grid.origin[2] + grid.step * index, 3)
    ds = Dataset()
    ds.update(header)
    ds.SOPInstanceUID = derive_uid(patient.seed, patient.number, "slice", index)
    ds.InstanceNumber = instance
    ds.ImagePositionPatient = [round(grid.origin[0], 3), round(grid.origin[1] - 150.0, 3), height]
    ds.SliceLocation = height
    pixels = scan.pixels[index]
    if scanner.transfer_syntax in (EXPLICIT, IMPLICIT):
        ds.PixelData = pixels.tobytes()
        ds["PixelData"].VR = "OW"
    else:
        ds.PixelData = encapsulate([_encode(pixels, ds, scanner.transfer_syntax)])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(ds.SOPInstanceUID)
    meta.TransferSyntaxUID = UID(scanner.transfer_syntax)
    meta.ImplementationClassUID = UID(IMPLEMENTATION)
    meta.ImplementationVersionName = "FEDCT_PHANTOM_1"
    ds.file_meta = meta
    return ds


def _encode(pixels: NDArray[np.integer], ds: Dataset, transfer_syntax: str) -> bytes:
    """One frame, losslessly compressed."""
    frame = np.ascontiguousarray(pixels)
    if transfer_syntax == JPEG2000:
        coded: bytes = encode_array(frame, bits_stored=ds.BitsStored, use_mct=False)
        return coded
    packed: bytes = get_encoder(transfer_syntax).encode(
        frame,
        rows=ds.Rows,
        columns=ds.Columns,
        samples_per_pixel=1,
        bits_allocated=16,
        bits_stored=ds.BitsStored,
        pixel_representation=ds.PixelRepresentation,
        photometric_interpretation="MONOCHROME2",
        number_of_frames=1,
        encoding_plugin="pydicom",
    )
    return packed
