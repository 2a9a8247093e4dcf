"""Small CT series written as DICOM, and sites and studies around them."""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import settings
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from client.ingest.geometry import Series
from client.ingest.records import Header
from client.site import DataSettings, PolicySettings, Site, SiteConfig, create_site
from common.study import Study, parse_study


def _slice(hounsfield: np.ndarray, position: np.ndarray, tags: dict[str, Any]) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Planted^Name",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "Rows": hounsfield.shape[0],
        "Columns": hounsfield.shape[1],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "ImagePositionPatient": [float(f"{value:.6f}") for value in position],
    }
    for name, value in (values | tags).items():
        if value is not None:
            setattr(dataset, name, value)
    if "PixelData" not in tags:
        stored = (hounsfield - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope)
        dataset.PixelData = np.rint(stored).astype("<i2").tobytes()
    return dataset


def _write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray | None = None,
    *,
    patient_id: str = "P1",
    seed: int = 0,
    each: Callable[[int, FileDataset], object] | None = None,
    **tags: Any,
) -> list[str]:
    """Write ``voxels`` [slices, rows, columns] in HU; ``affine`` takes their indices to LPS mm.

    Files get random names and instance numbers. Returns the SOP instance UID of each slice.
    """
    affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], float) if affine is None else affine
    step, down, across = affine[:3, 0], affine[:3, 1], affine[:3, 2]
    rows, columns = np.linalg.norm(down), np.linalg.norm(across)
    orientation = [float(f"{value:.12f}") for value in (*(across / columns), *(down / rows))]
    common = {
        "PatientID": patient_id,
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "ImageOrientationPatient": orientation,
        "PixelSpacing": [float(f"{value:.9f}") for value in (rows, columns)],
    } | tags
    folder.mkdir(parents=True, exist_ok=True)
    numbers = list(range(len(voxels)))
    random.Random(seed).shuffle(numbers)
    uids = []
    for index, number in enumerate(numbers):
        dataset = _slice(voxels[index], affine[:3, 3] + index * step, common | {"InstanceNumber": number + 1})
        if each is not None:
            each(index, dataset)
        pydicom.dcmwrite(folder / f"{number:05d}-{patient_id}-{seed}", dataset)
        uids.append(str(dataset.SOPInstanceUID))
    return uids


PKCS8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
OPENSSH = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())


@pytest.fixture
def typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[[Callable[[], object], str], Callable[..., tuple[int, str, str]]]:
    """Type commands in a folder of its own: ``typed(main, name)(*words)`` is the exit code and both outputs."""
    monkeypatch.chdir(tmp_path)

    def of(main: Callable[[], object], name: str) -> Callable[..., tuple[int, str, str]]:
        def run(*words: object) -> tuple[int, str, str]:
            monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
            with pytest.raises(SystemExit) as ended:
                main()
            shown = capsys.readouterr()
            assert isinstance(ended.value.code, int)
            return ended.value.code, shown.out, shown.err

        return run

    return of


@pytest.fixture(scope="session")
def write_certificates() -> Callable[[Path], None]:
    """Write ``ca.crt``, and ``server.crt`` and ``server.key`` of a server at 127.0.0.1."""

    def write(folder: Path) -> None:
        now = datetime.now(UTC)
        authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])

        def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
            return (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(issuer)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(hours=1))
                .not_valid_after(now + timedelta(days=1))
                .add_extension(extension, critical=False)
                .sign(authority, hashes.SHA256())
                .public_bytes(serialization.Encoding.PEM)
            )

        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        host = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "coordinator")])
        is_authority = x509.BasicConstraints(ca=True, path_length=None)
        (folder / "ca.crt").write_bytes(certificate(issuer, authority, is_authority))
        (folder / "server.crt").write_bytes(certificate(host, server, names))
        (folder / "server.key").write_bytes(server.private_bytes(*PKCS8))

    return write


@pytest.fixture(scope="session")
def write_node_key() -> Callable[[Path], ec.EllipticCurvePrivateKey]:
    """Make a node's private key as Flower reads it, write it, and return it."""

    def write(path: Path) -> ec.EllipticCurvePrivateKey:
        key = ec.generate_private_key(ec.SECP384R1())
        path.write_bytes(key.private_bytes(*OPENSSH))
        path.chmod(0o600)
        return key

    return write


settings.register_profile("untimed", deadline=None)  # no test is timed: a busy machine is no fault
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def write_series() -> Callable[..., list[str]]:
    return _write_series


@pytest.fixture(scope="session")
def make_series() -> Callable[..., Series]:
    """A sound series without files: ``slices`` of 10 x 10 pixels of 1 mm, ``step`` mm apart; keywords replace
    values of its headers.
    """
    counter = itertools.count()

    def make(slices: int = 4, step: float = 2.0, start: float = 0.0, **values: Any) -> Series:
        number = next(counter)
        common: dict[str, Any] = {
            "patient_id": "P1",
            "study_uid": "1.2.3",
            "series_uid": f"1.2.3.{number}",
            "frame_of_reference": "",
            "orientation": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            "spacing": (1.0, 1.0),
            "rows": 10,
            "columns": 10,
            "frame": 0,
            "original": True,
            "primary": True,
            "acquisition": "1",
            "thickness": step,
            "kernel": "B30f",
            "vendor": "SIEMENS",
            "syntax": str(ExplicitVRLittleEndian),
        } | values
        headers = tuple(
            Header(
                path=f"{number}/{index}",
                sop_uid=f"1.2.3.{number}.{index}",
                position=(0.0, 0.0, start + index * step),
                **common,
            )
            for index in range(slices)
        )
        affine = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [step, 0, 0, start], [0, 0, 0, 1]], float)
        return Series(headers, affine, np.arange(slices, dtype=np.float64))

    return make


@pytest.fixture(scope="session")
def memory_peak() -> Callable[[int], AbstractContextManager[None]]:
    """``with memory_peak(limit)``: the body may not allocate more than ``limit`` bytes at any time."""

    @contextmanager
    def watch(limit: int) -> Iterator[None]:
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            yield
            assert tracemalloc.get_traced_memory()[1] - before <= limit
        finally:
            tracemalloc.stop()

    return watch


@pytest.fixture(scope="session")
def make_study() -> Callable[..., Study]:
    """A study; keywords replace settings of task, input and evaluation."""

    def make(**changes: Any) -> Study:
        task: dict[str, Any] = {"classes": ["no", "yes"], "label_column": "label"}
        split: dict[str, Any] = {"holdout": 0.3, "split_seed": 0}
        image: dict[str, Any] = {"windows": [{"low": -1000, "high": 1000}], "spacing_mm": 2.0, "size": 32}
        for name, value in changes.items():
            section = task if name == "classes" or name.startswith("label_") else split if name in split else image
            section[name] = value
        return parse_study(
            {
                "format": 1,
                "name": "test",
                "task": task,
                "input": image,
                "model": {},
                "training": {"learning_rate": 0.1, "local_steps": 1, "batch_patients": 1},
                "privacy": {"unit": "off"},
                "federation": {"rounds": 1},
                "evaluation": split,
            }
        )

    return make


@pytest.fixture(scope="session")
def study_file() -> Callable[[Path, Study], None]:
    """Write a study as TOML."""

    def scalar(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {scalar(one)}" for key, one in value.items()) + "}"
        if isinstance(value, list):
            return f"[{', '.join(map(scalar, value))}]"
        return json.dumps(value)  # TOML spells these the same way

    def write(path: Path, study: Study) -> None:
        content = study.model_dump(mode="json", exclude_none=True)
        path.write_text("\n".join(f"{key} = {scalar(value)}" for key, value in content.items()) + "\n")

    return write


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose DICOM lies in ``tmp_path / "dicom"`` and whose labels are in ``labels.csv``."""
    folder = tmp_path / "site"
    folder.mkdir()
    settings = DataSettings(dicom=str(tmp_path / "dicom"), labels=str(tmp_path / "labels.csv"))
    return Site(folder, SiteConfig(name="site-1", data=settings))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real CT; tests that need it are skipped where it is absent."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("FEDCT_TEST_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real CT: set FEDCT_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def small_study() -> Callable[..., Study]:
    """A study of seconds; each keyword replaces keys of that section."""

    def make(**sections: Any) -> Study:
        content: dict[str, Any] = {
            "format": 1,
            "name": "small",
            "task": {"classes": ["dark", "bright"]},
            "input": {
                "windows": [{"low": -1000, "high": 1000}],
                "view": "sagittal",
                "spacing_mm": 2.0,
                "slice_spacing_mm": 2.0,
                "planes": 1,
                "size": 32,
            },
            "model": {},
            "training": {"learning_rate": 0.05, "local_steps": 1, "batch_patients": 2},
            "privacy": {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "clip": 1.0, "sampling_rate": 0.5},
            "federation": {"rounds": 2, "deadline_minutes": 5.0},
            "evaluation": {"holdout": 0.4},
        }
        for name, values in sections.items():
            whole = not isinstance(values, dict) or values.get("unit") == "off"
            content[name] = values if whole else {**content.get(name, {}), **values}
        return parse_study(content)

    return make


def trunk(shape: tuple[int, int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    """HU of a block of tissue (40) in air (-1000), both with noise."""
    _, rows, columns = shape
    voxels = np.full(shape, -1000.0)
    voxels[:, rows // 4 : -rows // 4, columns // 4 : -columns // 4] = 40
    return np.asarray(np.rint(voxels + rng.normal(0, 15, shape)))


@pytest.fixture(scope="session")
def write_sites(write_series: Callable[..., list[str]]) -> Callable[..., Path]:
    """Write ``sites`` site folders, simulated unless said otherwise, of ``patients`` tiny CT series each into a folder, and return it."""

    def make(root: Path, sites: int = 2, patients: int = 5, *, simulated: bool = True, **policy: Any) -> Path:
        rng = np.random.default_rng(0)
        allowed = {"max_epsilon": 100.0, "max_delta": 1e-3, "allow_without_privacy": True, "evaluation": "exact"}
        for number in range(1, sites + 1):
            settings = PolicySettings(**{**allowed, **policy})
            config = SiteConfig(name=f"site-{number}", simulated=simulated, policy=settings)
            folder = create_site(root / config.name, config).folder
            rows = ["patient_id,label"]
            for index in range(patients):
                bright = index % 2
                voxels = trunk((8, 16, 16), rng)
                voxels[2:6, 5:11, 5:11] += 300 * bright
                patient = f"S{number}P{index}"
                write_series(folder / "dicom" / patient, voxels, patient_id=patient, seed=index)
                rows.append(f"{patient},{'bright' if bright else 'dark'}")
            (folder / "labels.csv").write_text("\n".join(rows) + "\n")
        return root

    return make


@pytest.fixture
def make_sites(tmp_path: Path, write_sites: Callable[..., Path]) -> Callable[..., Path]:
    """``write_sites`` into a folder of this test."""
    return lambda *arguments, **settings: write_sites(tmp_path / "sites", *arguments, **settings)
