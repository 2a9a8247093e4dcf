"""The frames of an Enhanced CT: one header each, from the functional groups (PS3.3 C.7.6.16).

A group stands in the item of the frame or, when it is the same for all, in the shared item; the frame's
own comes first. Frames are numbered from 1 in the order in which their pixels are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset

from client.ingest.attributes import Attributes, codes, items, numbers, text, whole
from client.ingest.records import Found, Reason, Skip
from client.ingest.slices import Common, Making, Placement, make_header

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_TYPE = "CTImageFrameTypeSequence"
_CONTENT = "FrameContentSequence"
_POSITION = "PlanePositionSequence"
_ORIENTATION = "PlaneOrientationSequence"
_MEASURES = "PixelMeasuresSequence"
_RESCALE = "PixelValueTransformationSequence"
_RECONSTRUCTION = "CTReconstructionSequence"
# Legacy Converted Enhanced CT keeps here what has no group of its own (PS3.3 C.7.6.16.2.25)
_CONVERTED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")


def read_frames(dataset: Attributes, common: Common) -> list[Found]:
    """A ``Header`` or ``Skip`` for each frame; a single ``Skip`` when their number is not that of their groups."""
    frames = items(dataset, PER_FRAME)
    if not frames or len(frames) != whole(dataset, "NumberOfFrames", 1):
        return [Skip(common.path, Reason.BAD_HEADER, "NumberOfFrames is not the number of functional groups")]
    shared = next(iter(items(dataset, SHARED)), Dataset())
    image_type = tuple(codes(dataset, "ImageType"))
    return [
        _read_frame(_Groups(frame, shared), number, common, image_type) for number, frame in enumerate(frames, start=1)
    ]


@dataclass(frozen=True, slots=True)
class _Groups:
    """The functional groups of a frame."""

    frame: Dataset
    shared: Dataset

    def find(self, *names: str) -> Dataset | None:
        """The first item of the first group that there is: of the frame, else shared; None if there is none."""
        for groups in (self.frame, self.shared):
            for name in names:
                found = items(groups, name)
                if found:
                    return found[0]
        return None


def _read_frame(groups: _Groups, number: int, common: Common, image_type: tuple[str, ...]) -> Found:
    frame_type = tuple(codes(groups.find(_TYPE), "FrameType")) or image_type
    if "LOCALIZER" in frame_type:
        return Skip(common.path, Reason.LOCALIZER)
    rescale = groups.find(_RESCALE)
    measures = groups.find(_MEASURES)
    placement = Placement(
        position=numbers(groups.find(_POSITION), "ImagePositionPatient"),
        orientation=numbers(groups.find(_ORIENTATION), "ImageOrientationPatient"),
        spacing=numbers(measures, "PixelSpacing"),
        slope=numbers(rescale, "RescaleSlope"),
        intercept=numbers(rescale, "RescaleIntercept"),
        has_table=False,
    )
    fault = placement.fault()
    if fault is not None:
        return Skip(common.path, *fault)
    converted = groups.find(*_CONVERTED)
    making = Making(
        image_type=frame_type,
        acquisition=text(groups.find(_CONTENT), "FrameAcquisitionNumber"),
        thickness=numbers(measures, "SliceThickness"),
        kernel=text(groups.find(_RECONSTRUCTION), "ConvolutionKernel") or text(converted, "ConvolutionKernel"),
    )
    return make_header(common, placement, making, number)
