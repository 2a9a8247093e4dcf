"""Nothing of a planted patient is found in anything that ingest and training leave behind, print or send.

Planted texts are searched for in every byte, as UTF-8, UTF-16 and hexadecimal digits, in any case.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from client.ingest.report_page import REPORT_HTML
from client.participation import participate
from client.received import Received
from client.site import DataSettings, PolicySettings, SiteConfig, create_site
from common.messages import Request
from common.models.weights import initial_model

TEXTS = {
    "PatientName": "Plantedova^Quirina",
    "PatientBirthDate": "19570611",
    "StudyDate": "20190823",
    "SeriesDate": "20190824",
    "StudyTime": "172943",
    "InstitutionName": "Saint Plantius Infirmary",
    "InstitutionAddress": "17 Planted Lane Vexborough",
    "ReferringPhysicianName": "Referrerov^Ottokar",
    "OperatorsName": "Operatova^Zdenka",
    "StationName": "PLANTSTATION07",
    "DeviceSerialNumber": "SN-4471-0092-77",
    "AccessionNumber": "ACC7719002341",
    "StudyDescription": "compared with Plantedova of ward 9",
    "SeriesDescription": "spine of Quirina",
    "ProtocolName": "protocol Vexborough",
    "PatientComments": "sister of Plantedova",
    "Manufacturer": "Plantworks Scanners",
    "ConvolutionKernel": "KERN-Quirina",
    "StudyInstanceUID": "1.2.826.0.1.77001.1",
    "SeriesInstanceUID": "1.2.826.0.1.77001.2",
    "FrameOfReferenceUID": "1.2.826.0.1.77001.3",
}
PATIENT = "PAT-0099-QUIRINA"
OTHERS = [f"PAT-01{number:02d}-OTHER" for number in range(6)]
PRIVATE = "private creator note on Plantedova"
FOLDERS = ("Plantedova_Quirina_19570611", "member of Plantedova.dcm", "Plantedova.zip", "doctor Referrerov.txt")
UNMATCHED = "PAT-7777-ABSENT"
PARTS = ("Plantedova", "Quirina", "Referrerov", "Vexborough", "Plantius")
VOXELS = np.random.default_rng(0).normal(40, 30, (6, 40, 40)).round()
VOXELS[:, :10] = -1000


def plant(root: Path, write_series) -> list[str]:
    """A DICOM folder of everything that names a patient; returns the SOP instance UIDs."""
    uids = []

    def private(_, dataset):
        block = dataset.private_block(0x0019, "PLANTED CREATOR", create=True)
        block.add_new(0x10, "LO", PRIVATE)
        dataset.RequestAttributesSequence = Sequence([Dataset()])
        dataset.RequestAttributesSequence[0].RequestedProcedureDescription = PRIVATE

    folder = root / FOLDERS[0]
    uids += write_series(folder, VOXELS, patient_id=PATIENT, each=private, **TEXTS)
    kinds = {
        "mr": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
        "capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "rtstruct": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3"},
        "private class": {"SOPClassUID": "1.2.826.0.1.77001.4"},
        "localizer": {"ImageType": ["DERIVED", "PRIMARY", "LOCALIZER"]},
        "burned in": {"BurnedInAnnotation": "YES"},
        "no geometry": {"ImageOrientationPatient": None},
        "short": {},
        "other kernel": {"SeriesInstanceUID": "1.2.826.0.1.77001.5", "ConvolutionKernel": "Plantedova"},
    }
    for number, (kind, tags) in enumerate(kinds.items(), start=1):
        voxels = VOXELS[:5] if kind == "other kernel" else VOXELS[:2]
        whole = TEXTS | {"SeriesInstanceUID": f"1.2.826.0.1.77001.6.{number}"} | tags
        uids += write_series(folder / f"{kind} {FOLDERS[0]}", voxels, patient_id=PATIENT, **whole)
    damage(folder)
    for number, patient in enumerate(OTHERS):
        uids += write_series(root / patient, VOXELS, patient_id=patient, seed=number)
    (root / FOLDERS[3]).write_text("\n".join(TEXTS.values()))
    os.symlink(root / "gone", root / "link to Plantedova")
    with zipfile.ZipFile(root / FOLDERS[2], "w") as archive:
        for path in sorted((root / OTHERS[0]).iterdir()):
            archive.write(path, f"{FOLDERS[1]}/{path.name}")
        archive.writestr(FOLDERS[1], b"Plantedova")
    return uids


def damage(folder: Path) -> None:
    """Beside the sound files, ones that make a reader complain: it must not do so in the patient's words."""
    sound = next(path for path in sorted(folder.iterdir()) if path.is_file())
    content = sound.read_bytes()
    (folder / "cut short").write_bytes(content[: len(content) // 3])
    for tag, planted in {
        "StudyInstanceUID": "Plantedova",
        "RescaleSlope": "Quirina",
        "StudyDate": "Vexborough",
    }.items():
        value = str(pydicom.dcmread(sound)[tag].value).encode()
        place = content.index(value)
        (folder / f"wrong {tag}").write_bytes(
            content[:place] + planted.encode()[: len(value)].ljust(len(value)) + content[place + len(value) :]
        )
    dataset = pydicom.dcmread(sound)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    dataset.SOPInstanceUID = "1.2.826.0.1.77001.8"
    dataset.PixelData = encapsulate([dataset.PixelData])
    pydicom.dcmwrite(folder / "video", dataset, enforce_file_format=False)


def forms(text: str) -> set[bytes]:
    """How a text may lie in a file, in lower case."""
    cases = (text, text.lower(), text.upper())  # of which the hexadecimal digits differ
    encoded = [case.encode(encoding) for case in cases for encoding in ("utf-8", "utf-16-le", "utf-16-be")]
    return {form.lower() for form in [*encoded, *(one.hex().encode() for one in encoded)]}


def search(content: bytes, planted: set[str]) -> list[str]:
    lower = content.lower()
    return sorted(text for text in planted if any(form in lower for form in forms(text)))


def run(*arguments: str) -> bytes:
    """Standard output and error of fedct-site, as a person would see them."""
    command = [sys.executable, "-W", "default", "-c", "from client.cli import main; main()", *arguments]
    done = subprocess.run(command, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def planted_export(tmp_path, write_series) -> tuple[Path, Path, set[str]]:
    """DICOM folder, label table, and all that must be found nowhere else."""
    root = tmp_path / "export of Vexborough"
    uids = plant(root, write_series)
    table = tmp_path / "labels of Vexborough.csv"
    rows = [f"{patient},{number % 2}" for number, patient in enumerate([PATIENT, *OTHERS])]
    table.write_text("\n".join(["patient_id,label", *rows, f"{UNMATCHED},1", f"{OTHERS[5]},0", f"{OTHERS[4]},1"]))
    planted = {PATIENT, *OTHERS, UNMATCHED, PRIVATE, "PLANTED CREATOR", *FOLDERS, *PARTS, *TEXTS.values(), *uids}
    return root, table, planted | {str(root), str(tmp_path)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encrypt", "bands"),
    [(False, ()), (True, ()), (False, ("vendor", "thickness", "age", "sex"))],
    ids=["in clear", "encrypted", "in clear, with the bands that the site permits"],
)
def test_nothing_of_a_patient_is_in_what_is_stored_printed_or_sent(
    planted_export, tmp_path, small_study, study_file, encrypt, bands
):
    root, table, planted = planted_export
    split = {"holdout": 0.5, "subgroups": ["vendor", "thickness", "age", "sex"]}
    study = small_study(task={"classes": ["0", "1"]}, federation={"rounds": 1}, evaluation=split)
    study_file(tmp_path / "study.toml", study)
    folder = tmp_path / "hospital"
    policy = PolicySettings(max_epsilon=100.0, max_delta=1e-3, evaluation="exact", subgroups=bands, subgroup_minimum=1)
    data = DataSettings(dicom=str(root), labels=str(table), encrypt=encrypt)
    site = create_site(folder, SiteConfig(name="hospital", simulated=True, data=data, policy=policy))
    common = ["--site", str(folder), "--study", str(tmp_path / "study.toml")]
    printed = [
        run("ingest", *common),
        run("ingest", *common, "--json", "--refused", str(tmp_path / "refused.csv")),
        run("cohort", "show", *common, "--json"),
        run("cohort", "show", *common, "--page", str(tmp_path / "page.html")),
    ]
    page = (tmp_path / "page.html").read_bytes()
    assert search(b"".join(printed).replace(str(tmp_path / "page.html").encode(), b""), planted) == []
    assert search(page, planted) == []
    site.approve(study)
    weights = Received.whole(initial_model(study, 0), study)
    for training in (True, False):
        request = Request(study=study.canonical_json(), round=1, seed=0)
        answer = participate(site, study, request, weights, training=training)
        assert answer.reply.status == "ok"
        sent = str(answer.reply.to_config()).encode() + (b"" if answer.update is None else answer.update.tobytes())
        assert search(sent, planted) == []
        assert answer.reply.subgroups == ("" if training else ",".join(bands))
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / "site.toml"]
    assert any(path.name.startswith("subgroups.npy") for path in files) is bool(bands)
    assert {"scan.sqlite", "site.key", "audit.log", "ledger.sqlite"} <= {path.name for path in files}
    assert any(path.name.startswith(REPORT_HTML) for path in files)
    for path in files:
        assert search(path.read_bytes(), planted) == [], path.name
        assert search(path.name.encode(), planted) == []
        assert path.stat().st_mode & 0o077 == 0, path.name
    # The search finds what is there: the list that was asked for, and site.toml, name the folders.
    assert set(search((tmp_path / "refused.csv").read_bytes(), planted)) >= {FOLDERS[0], FOLDERS[3], "Plantedova"}
    assert "Vexborough" in search((folder / "site.toml").read_bytes(), planted)


@pytest.mark.slow
def test_errors_that_end_an_ingest_name_no_patient(planted_export, tmp_path, small_study, study_file):
    root, table, planted = planted_export
    study_file(tmp_path / "study.toml", small_study(task={"classes": ["a", "b"]}))
    command = [sys.executable, "-c", "from client.cli import main; main()", "ingest", str(root)]
    command += ["--site", str(tmp_path / "new"), "--study", str(tmp_path / "study.toml"), "--labels"]
    only = tmp_path / "only.csv"
    only.write_text(f"patient_id,label\n{UNMATCHED},a\n")
    for labels, words in ((table, "line 2: label = '0' is no class"), (only, "no row of")):
        done = subprocess.run([*command, str(labels)], capture_output=True, timeout=300, text=True)
        assert done.returncode == 5, done.stderr
        said = done.stdout + done.stderr
        assert words in said
        assert "Traceback" not in said
        # An error names the folder or table that was given on the command line, and nothing from within it.
        said = re.sub("|".join(re.escape(str(path)) for path in (labels, root)), "", said)
        assert search(said.encode(), planted - {str(tmp_path)}) == []


def test_the_search_finds_each_form():
    for content in (
        b"xPLANTEDOVAx",
        "Plantedova".encode("utf-16"),
        b"..706c616e7465646f7661..",
        b"706C616E7465646F7661",
    ):
        assert search(content, {"Plantedova", "Quirina"}) == ["Plantedova"]
    assert search(b"Planted ova", {"Plantedova"}) == []
