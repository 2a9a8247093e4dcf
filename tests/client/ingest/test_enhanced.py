from __future__ import annotations

from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    generate_uid,
)

from client.ingest.headers import read_source
from client.ingest.records import Header, Reason, Skip


def group(**values: Any) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def enhanced(frames: int = 4, **tags: Any) -> FileDataset:
    """Frames 2 mm apart, stored in scrambled order; orientation, spacing and rescale shared by all."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    shared = group(
        PlaneOrientationSequence=[group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[group(PixelSpacing=[0.5, 0.75], SliceThickness=2)],
        PixelValueTransformationSequence=[group(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")],
        CTReconstructionSequence=[group(ConvolutionKernel="Br36f")],
        CTImageFrameTypeSequence=[group(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])],
    )
    order = np.random.default_rng(0).permutation(frames)
    each = [
        group(
            PlanePositionSequence=[group(ImagePositionPatient=[-10, -20, 2 * int(place)])],
            FrameContentSequence=[group(FrameAcquisitionNumber=3, InStackPositionNumber=int(place) + 1)],
        )
        for place in order
    ]
    values = {
        "SOPClassUID": EnhancedCTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": "1.2.3",
        "SeriesInstanceUID": "1.2.4",
        "FrameOfReferenceUID": "1.2.5",
        "Modality": "CT",
        "PatientID": "P1",
        "Manufacturer": "Vendor",
        "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "NumberOfFrames": frames,
        "Rows": 6,
        "Columns": 8,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "SharedFunctionalGroupsSequence": [shared],
        "PerFrameFunctionalGroupsSequence": each,
        "PixelData": np.repeat(order, 48).astype("<u2").tobytes(),
    }
    for name, value in (values | tags).items():
        setattr(dataset, name, value)
    return dataset


def read(folder, dataset: FileDataset) -> list:
    pydicom.dcmwrite(folder / "x", dataset)
    return read_source(folder, "x")


@pytest.mark.parametrize("kind", [EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage])
def test_each_frame_has_a_header_with_its_own_place(tmp_path, kind):
    dataset = enhanced(5, SOPClassUID=kind)
    found = read(tmp_path, dataset)
    assert [header.frame for header in found] == [1, 2, 3, 4, 5]
    heights = [float(item.PlanePositionSequence[0].ImagePositionPatient[2]) for item in dataset[0x52009230]]
    assert heights != sorted(heights)
    assert [header.position for header in found] == [(-10, -20, height) for height in heights]
    first = found[0]
    assert (first.orientation, first.spacing, first.thickness) == ((1, 0, 0, 0, 1, 0), (0.5, 0.75), 2.0)
    assert (first.kernel, first.vendor, first.original, first.primary) == ("Br36f", "Vendor", True, True)
    assert (first.patient_id, first.study_uid, first.series_uid, first.frame_of_reference) == (
        "P1",
        "1.2.3",
        "1.2.4",
        "1.2.5",
    )
    assert first.acquisition == "3\\ORIGINAL\\PRIMARY\\VOLUME\\NONE"
    assert first.slice_id == f"{dataset.SOPInstanceUID}#1"
    assert len({header.slice_id for header in found}) == 5


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined", [False, True])
def test_sequences_of_defined_and_undefined_length_are_read_alike(tmp_path, syntax, undefined):
    dataset = enhanced(3)
    dataset.file_meta.TransferSyntaxUID = syntax
    for tag in (0x52009229, 0x52009230):
        dataset[tag].is_undefined_length = undefined
        for item in dataset[tag].value:
            item.is_undefined_length_sequence_item = undefined
    assert all(isinstance(one, Header) for one in read(tmp_path, dataset))


def test_a_value_of_the_frame_wins_over_the_shared_one(tmp_path):
    dataset = enhanced(2)
    second = dataset.PerFrameFunctionalGroupsSequence[1]
    second.PlaneOrientationSequence = [group(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])]
    second.CTImageFrameTypeSequence = [group(FrameType=["DERIVED", "SECONDARY", "MPR", "NONE"])]
    second.CTReconstructionSequence = [group(ConvolutionKernel="Hr68")]
    second.PixelMeasuresSequence = [group(PixelSpacing=[1, 1])]
    first, second = read(tmp_path, dataset)
    assert (first.orientation, first.original, first.primary, first.kernel) == ((1, 0, 0, 0, 1, 0), True, True, "Br36f")
    assert (second.orientation, second.original, second.primary) == ((0, 1, 0, 0, 0, -1), False, False)
    assert (second.kernel, second.spacing, second.thickness) == ("Hr68", (1, 1), 0.0)
    assert first.acquisition != second.acquisition


def test_a_legacy_converted_frame_keeps_its_kernel_in_the_unassigned_attributes(tmp_path):
    dataset = enhanced(2, SOPClassUID=LegacyConvertedEnhancedCTImageStorage)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared.CTReconstructionSequence
    shared.UnassignedSharedConvertedAttributesSequence = [group(ConvolutionKernel="STANDARD")]
    assert [header.kernel for header in read(tmp_path, dataset)] == ["STANDARD", "STANDARD"]


def test_a_frame_that_cant_be_used_is_a_skip_and_the_others_stay(tmp_path):
    dataset = enhanced(5)
    frames = dataset.PerFrameFunctionalGroupsSequence
    del frames[0].PlanePositionSequence
    frames[1].PixelMeasuresSequence = [group(PixelSpacing=[0, 0])]
    frames[2].CTImageFrameTypeSequence = [group(FrameType=["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"])]
    frames[3].PixelValueTransformationSequence = [group(RescaleSlope=1)]
    found = read(tmp_path, dataset)
    assert found[:4] == [
        Skip("x", Reason.NO_GEOMETRY, "ImagePositionPatient"),
        Skip("x", Reason.BAD_HEADER, "PixelSpacing"),
        Skip("x", Reason.LOCALIZER),
        Skip("x", Reason.NO_RESCALE, "RescaleIntercept"),
    ]
    assert isinstance(found[4], Header)
    assert found[4].frame == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"NumberOfFrames": 3}, "bad-header"),
        ({"NumberOfFrames": 9, "PixelData": bytes(9 * 96)}, "bad-header"),
        ({"NumberOfFrames": 2**30}, "too-large"),
        ({"PerFrameFunctionalGroupsSequence": []}, "bad-header"),
        ({"SharedFunctionalGroupsSequence": []}, "no-geometry"),
        ({"PixelData": bytes(100)}, "pixels-unreadable"),
        ({"PatientID": ""}, "no-patient-id"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]}, "localizer"),
        ({"BurnedInAnnotation": "YES"}, "burned-in-text"),
        ({"Rows": 5000}, "too-large"),
    ],
)
def test_a_file_that_cant_be_used_says_why(tmp_path, change, reason):
    found = read(tmp_path, enhanced(4, **change))
    assert {one.reason for one in found if isinstance(one, Skip)} == {reason}
    assert not any(isinstance(one, Header) for one in found)


def test_a_header_of_a_thousand_frames_is_read(tmp_path):
    found = read(tmp_path, enhanced(1000))
    assert len(found) == 1000
    assert len({header.position for header in found}) == 1000
    assert len({id(header.orientation) for header in found}) == 1  # equal values are one object


def test_a_ct_of_the_single_frame_class_with_groups_is_read_by_them(tmp_path):
    found = read(tmp_path, enhanced(2, SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    assert [header.frame for header in found] == [1, 2]
