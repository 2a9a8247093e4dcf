from __future__ import annotations

import csv
import io
import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    RTStructureSetStorage,
    SegmentationStorage,
)

from client.ingest import structures
from client.ingest.geometry import build_series
from client.ingest.records import Annotation, Header, Reason
from client.ingest.structures import read_drawn, structure_labels
from common.study import Task

TASK = Task(classes=("absent", "present"), label_level="slice", structure="GTV")
FRAME = "1.2.840.1"


def item(**values) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def new_file(storage, syntax=ExplicitVRLittleEndian) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = storage
    meta.MediaStorageSOPInstanceUID = "1.2.840.99"
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = storage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientID = "P1"
    return dataset


def square(z, kind="CLOSED_PLANAR", tilt=0.0) -> Dataset:
    points = [[1, 1, z], [5, 1, z + tilt], [5, 5, z + tilt], [1, 5, z]]
    return item(ContourGeometricType=kind, NumberOfContourPoints=4, ContourData=[v for p in points for v in p])


@pytest.fixture
def write_rtstruct(tmp_path):
    """Write an RTSTRUCT of ``regions`` (name -> contours); returns its annotation."""

    def write(name="rs", frame=FRAME, patient="P1", **regions) -> Annotation:
        dataset = new_file(RTStructureSetStorage)
        numbered = list(enumerate(regions.items(), start=3))
        dataset.StructureSetROISequence = Sequence(
            item(ROINumber=number, ROIName=roi, ReferencedFrameOfReferenceUID=frame) for number, (roi, _) in numbered
        )
        dataset.ROIContourSequence = Sequence(
            item(ReferencedROINumber=number, ContourSequence=Sequence(contours)) for number, (_, contours) in numbered
        )
        pydicom.dcmwrite(tmp_path / name, dataset)
        return Annotation(name, patient, "rtstruct")

    return write


@pytest.fixture
def write_seg(tmp_path):
    """Write a segmentation of ``frames`` (label, z, pixels); returns its annotation."""

    def write(
        frames, name="seg", frame=FRAME, fractional=False, syntax=ExplicitVRLittleEndian, side=5, row=(1, 0, 0)
    ) -> Annotation:
        dataset = new_file(SegmentationStorage, syntax)
        labels = sorted({label for label, _, _ in frames})
        dataset.SegmentSequence = Sequence(
            item(SegmentNumber=index, SegmentLabel=label) for index, label in enumerate(labels, start=1)
        )
        dataset.FrameOfReferenceUID = frame
        plane = item(ImageOrientationPatient=[*row, 0, 1, 0])
        dataset.SharedFunctionalGroupsSequence = Sequence([item(PlaneOrientationSequence=Sequence([plane]))])
        dataset.PerFrameFunctionalGroupsSequence = Sequence(
            item(
                PlanePositionSequence=Sequence([item(ImagePositionPatient=[0, 0, z])]),
                SegmentIdentificationSequence=Sequence([item(ReferencedSegmentNumber=labels.index(label) + 1)]),
            )
            for label, z, _ in frames
        )
        dataset.NumberOfFrames = len(frames)
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelRepresentation = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 if fractional else 1
        dataset.HighBit = dataset.BitsStored - 1
        dataset.SegmentationType = "FRACTIONAL" if fractional else "BINARY"
        pixels = np.array([np.broadcast_to(values, (side, side)) for _, _, values in frames], np.uint8)
        if syntax == JPEG2000Lossless:
            dataset.PixelData = encapsulate([b"\xff\x4f" for _ in frames])
        else:
            packed = pixels if fractional else np.packbits(pixels.ravel(), bitorder="little")
            content = packed.tobytes()
            dataset.PixelData = content + b"\0" * (len(content) % 2)
            if syntax == RLELossless:
                dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
                dataset.compress(RLELossless, encoding_plugin="pydicom")
        dataset["PixelData"].VR = "OB"
        pydicom.dcmwrite(tmp_path / name, dataset)
        return Annotation(name, "P1", "seg")

    return write


def present(found, series) -> list[int | None]:
    """The class of each slice of a series."""
    return [found.labels.classes.get(header.slice_id) for header in series.headers]


def test_a_slice_on_which_the_structure_is_drawn_is_present_and_the_others_absent(
    write_rtstruct, make_series, tmp_path
):
    series = make_series(slices=5, frame_of_reference=FRAME)
    annotation = write_rtstruct(**{"gtv ": [square(2), square(4.9), square(5.1)], "lung": [square(0)]})
    found = structure_labels([annotation], [series], tmp_path, TASK)
    assert present(found, series) == [0, 1, 1, 1, 0]  # 4.9 mm is nearest to the slice at 4, 5.1 to that at 6
    assert found.used == ("rs",)
    assert found.skips == ()
    assert found.labels.notes["slices_present"] == 3


def test_a_series_without_a_structure_set_gets_no_labels(write_rtstruct, make_series, tmp_path):
    drawn_on, other_frame = make_series(frame_of_reference=FRAME), make_series(frame_of_reference="1.9")
    other_patient = make_series(patient_id="P2", frame_of_reference=FRAME)
    found = structure_labels([write_rtstruct(GTV=[square(2)])], [drawn_on, other_frame, other_patient], tmp_path, TASK)
    assert set(found.labels.classes) == {header.slice_id for header in drawn_on.headers}


@pytest.mark.parametrize("frame", ["", "1.2.77"])
def test_without_a_frame_of_reference_that_fits_the_set_belongs_where_all_of_it_lies(
    write_rtstruct, make_series, tmp_path, frame
):
    inside, partly = make_series(slices=6, frame_of_reference="1.9"), make_series(slices=3, frame_of_reference="1.8")
    found = structure_labels(
        [write_rtstruct(frame=frame, GTV=[square(2), square(8)])], [inside, partly], tmp_path, TASK
    )
    assert present(found, inside) == [0, 1, 0, 0, 1, 0]
    assert present(found, partly) == [None] * 3


@pytest.mark.parametrize(
    "regions",
    [
        {"lung": [square(2)]},
        {"GTV": []},
        {"GTV": [square(2, kind="POINT")]},
        {"GTV": [square(50)]},
        {"GTV": [square(2, tilt=9.0)]},
    ],
)
def test_a_set_that_draws_nothing_of_it_on_a_slice_labels_nothing(write_rtstruct, make_series, tmp_path, regions):
    series = make_series(frame_of_reference=FRAME)
    found = structure_labels([write_rtstruct(**regions)], [series], tmp_path, TASK)
    assert found.labels.classes == {}
    assert [skip.reason for skip in found.skips] == [Reason.NO_STRUCTURE]
    assert found.used == ()


def test_an_outline_beyond_the_slices_is_counted(write_rtstruct, make_series, tmp_path):
    series = make_series(frame_of_reference=FRAME)
    found = structure_labels([write_rtstruct(GTV=[square(2), square(7.2)])], [series], tmp_path, TASK)
    assert present(found, series) == [0, 1, 0, 0]
    assert found.labels.notes["outlines_between_slices"] == 1


def test_slices_on_which_two_sets_disagree_are_conflicting(write_rtstruct, make_series, tmp_path):
    series = make_series(frame_of_reference=FRAME)
    sets = [write_rtstruct("a", GTV=[square(2), square(4)]), write_rtstruct("b", GTV=[square(2)])]
    found = structure_labels(sets, [series], tmp_path, TASK)
    assert present(found, series) == [0, 1, None, 0]
    assert found.labels.conflicting == {series.headers[2].slice_id}


@pytest.mark.parametrize(
    ("fractional", "syntax"), [(False, ExplicitVRLittleEndian), (True, ExplicitVRLittleEndian), (True, RLELossless)]
)
def test_a_segmentation_is_present_where_its_segment_has_a_pixel(write_seg, make_series, tmp_path, fractional, syntax):
    series = make_series(slices=5, frame_of_reference=FRAME)
    one_pixel = np.zeros((5, 5), np.uint8)
    one_pixel[4, 4] = 1  # 25 pixels a frame: frames don't begin at whole bytes
    frames = [("liver", 0, 1), ("GTV", 8, one_pixel), ("GTV", 2, 0), ("GTV", 4.2, 1), ("liver", 6, 1)]
    found = structure_labels([write_seg(frames, fractional=fractional, syntax=syntax)], [series], tmp_path, TASK)
    assert present(found, series) == [0, 0, 1, 0, 1]


def test_a_segmentation_across_the_slices_labels_nothing(write_seg, make_series, tmp_path):
    series = make_series(frame_of_reference=FRAME)
    found = structure_labels([write_seg([("GTV", 2, 1)], row=(0, 0, 1))], [series], tmp_path, TASK)
    assert found.labels.classes == {}
    assert found.skips[0].reason == Reason.NO_STRUCTURE


def test_segmentations_beyond_the_limits_are_refused(write_seg, tmp_path, monkeypatch):
    annotation = write_seg([("GTV", 2, 1)], fractional=True, syntax=JPEG2000Lossless)
    refused = read_drawn(tmp_path, annotation, "GTV")
    assert (refused.reason, refused.detail) == (
        Reason.UNSUPPORTED_SYNTAX,
        "JPEG 2000 Image Compression (Lossless Only)",
    )
    large = write_seg([("GTV", 2, 1)], side=5)
    monkeypatch.setattr(structures, "MAXIMUM_VOXELS", 24)
    assert read_drawn(tmp_path, large, "GTV").reason == Reason.TOO_LARGE
    monkeypatch.setattr(structures, "MAXIMUM_VOXELS", 25)
    monkeypatch.setattr(structures, "MAXIMUM_BYTES", 100)
    assert read_drawn(tmp_path, large, "GTV").reason == Reason.TOO_LARGE


def test_a_set_that_is_gone_or_no_set_is_a_value(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    assert read_drawn(tmp_path, Annotation("x", "P1", "seg"), "GTV").reason == Reason.BAD_HEADER
    assert read_drawn(tmp_path, Annotation("y", "P1", "rtstruct"), "GTV").reason == Reason.UNREADABLE


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_sets_are_drawn_or_skipped_never_a_trace(write_rtstruct, write_seg, tmp_path, kind, data):
    one = write_rtstruct(GTV=[square(2)]) if kind == "rtstruct" else write_seg([("GTV", 2, 1), ("GTV", 4, 0)])
    content = bytearray((tmp_path / one.path).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "damaged").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_drawn(tmp_path, Annotation("damaged", "P1", kind), "GTV")
    if isinstance(found, structures.Drawn):
        assert all(np.isfinite(points).all() for points in found.outlines)
    else:
        assert found.reason in {Reason.BAD_HEADER, Reason.NO_STRUCTURE, Reason.TOO_LARGE, Reason.UNSUPPORTED_SYNTAX}


def test_the_contours_of_real_patients_give_the_labels_of_their_table(real_data, make_series):
    """146 of 401 slices of 8 patients; the sets' references to SOP instances match none of them."""
    root = real_data / "sts_ct"
    template = make_series().headers[0]
    headers, sets = [], []
    for path in sorted(root.glob("*/*/*.dcm")):
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        source = str(path.relative_to(root))
        if dataset.Modality == "RTSTRUCT":
            sets.append(Annotation(source, str(dataset.PatientID), "rtstruct"))
            continue
        headers.append(header_of(dataset, source, template))
    series, skips = build_series(headers)
    assert skips == []
    task = TASK.model_copy(update={"structure": "gtv_mass_ct"})
    found = structure_labels(sets, series, root, task)
    rows = csv.DictReader(io.StringIO((root / "labels.csv").read_text()))
    assert found.labels.classes == {row["sop_uid"]: int(row["tumour"]) for row in rows}
    assert (found.labels.notes["slices_present"], len(found.labels.classes)) == (146, 401)
    assert structure_labels(sets, series, root, TASK).labels.classes == {}


def header_of(dataset, source, template) -> Header:
    values = {name: getattr(template, name) for name in Header.__dataclass_fields__}
    return Header(
        **values
        | {
            "path": source,
            "patient_id": str(dataset.PatientID),
            "study_uid": str(dataset.StudyInstanceUID),
            "series_uid": str(dataset.SeriesInstanceUID),
            "sop_uid": str(dataset.SOPInstanceUID),
            "frame_of_reference": str(dataset.FrameOfReferenceUID),
            "position": tuple(map(float, dataset.ImagePositionPatient)),
            "orientation": tuple(map(float, dataset.ImageOrientationPatient)),
            "spacing": tuple(map(float, dataset.PixelSpacing)),
            "rows": dataset.Rows,
            "columns": dataset.Columns,
        }
    )
