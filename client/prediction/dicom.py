"""The answer as DICOM, in the study that was asked about: pictures, a map in space, and a structured report.

* a series of secondary captures (PS3.3 A.8.1): the planes under their heat map, for any viewer;
* a parametric map (PS3.3 A.75): the same maps as numbers, placed in the frame of reference of the CT;
* a structured report by template 1500 (PS3.16): the values, the algorithm, and the CT that they rest on.

All of them carry the patient of the CT, as the standard asks: they stay where the CT may be.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import highdicom as hd
import numpy as np
import pydicom
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from client.ingest.planes import VIEWS
from client.ingest.records import Header
from client.ingest.sources import open_source
from client.prediction.pictures import enlargement, overlaid
from client.prediction.predict import Answer
from client.prediction.source import NewStudy
from common.errors import DataError
from common.models.saved import SavedModel
from common.study import Study
from common.version import VERSION

MAKER = "fedct"
SCHEME = "99FEDCT"
"""Private coding scheme: classes are the study's own words, which no public scheme has."""
NOTE = "RESEARCH ONLY"
HEAT_SERIES, MAP_SERIES, REPORT_SERIES = 9001, 9002, 9003
_MEANING = 64  # characters of a code's meaning, PS3.5 6.2 LO
_ENDS = {(0, 1): "L", (0, -1): "R", (1, 1): "P", (1, -1): "A", (2, 1): "H", (2, -1): "F"}  # PS3.3 C.7.6.1.1.1
_LONGEST = {"SH": 16, "LO": 64}  # characters, PS3.5 6.2; anonymisers write longer ones, which would make ours invalid
_OF_PATIENT_AND_STUDY = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyInstanceUID"),
    "StudyDescription",
)


@dataclass(frozen=True)
class Objects:
    """Everything that is written, ready to be: ``pictures`` one a plane, in their order."""

    pictures: list[Dataset]
    map: Dataset
    report: Dataset


def make_objects(new: NewStudy, study: Study, model: SavedModel, answer: Answer) -> Objects:
    """The answer as DICOM. Raises DataError if the CT lacks the UIDs that anything said of it must name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd values in a source that ingest has taken
        slices = _source_images(new)
        return Objects(
            pictures=_pictures(new, study, answer, slices[0]),
            map=_map(new, study, model, answer, slices),
            report=_report(study, model, answer, slices),
        )


def _source_images(new: NewStudy) -> list[Dataset]:
    """A data set a file of the CT that was used: identity, patient, study and geometry, without pixels."""
    headers = new.chosen.series.headers
    missing = [
        n for n, v in (("SOPInstanceUID", headers[0].sop_uid), ("StudyInstanceUID", headers[0].study_uid)) if not v
    ]
    missing += [] if headers[0].series_uid else ["SeriesInstanceUID"]
    if missing:
        raise DataError(
            f"the CT has no {missing[0]}, so no result can name it", "Export the original study from the PACS"
        )
    with open_source(new.root, headers[0].path) as stream:
        first = pydicom.dcmread(stream, force=True, stop_before_pixels=True)
    unique = {header.sop_uid: header for header in headers}
    frame = headers[0].frame_of_reference or hd.UID()
    return [_source_image(header, first, frame) for header in unique.values()]


def _source_image(header: Header, first: Dataset, frame_of_reference: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name in _OF_PATIENT_AND_STUDY:
        if name in first and len(str(first[name].value)) <= _LONGEST.get(first[name].VR, 1024):
            image[name] = first[name]
        elif name not in (
            "SpecificCharacterSet",
            "PatientAge",
            "StudyDescription",
        ):  # the others may be empty, not absent
            setattr(image, name, "")
    image.SOPClassUID = first.SOPClassUID
    image.SOPInstanceUID, image.SeriesInstanceUID = header.sop_uid, header.series_uid
    image.Modality = "CT"
    image.Rows, image.Columns = header.rows, header.columns
    image.ImagePositionPatient = list(header.position)
    image.ImageOrientationPatient = list(header.orientation)
    image.PixelSpacing = list(header.spacing)
    image.SliceThickness = header.thickness or None
    image.FrameOfReferenceUID = frame_of_reference
    image.PositionReferenceIndicator = ""
    image.SamplesPerPixel = 1
    return image


def _describe_series(found: Dataset, what: str) -> None:
    """What the general series module asks for (PS3.3 C.7.3.1), and highdicom leaves to us."""
    found.SeriesDescription = f"fedct {what}, {NOTE.lower()}"
    found.Laterality = ""  # the body part is not said, so which of two sides it might be is not known


def _pictures(new: NewStudy, study: Study, answer: Answer, reference: Dataset) -> list[Dataset]:
    series = hd.UID()
    factor = enlargement(study.input.size)
    spacing = study.input.spacing_mm / factor
    pictures: list[Dataset] = []
    for index, (plane, share, target) in enumerate(zip(new.centres, answer.maps, answer.targets, strict=True)):
        note = f"{NOTE}  {_ascii(answer.classes[target])} {answer.examples[index, target]:.2f}"
        picture = SCImage.from_ref_dataset(
            reference,
            pixel_array=overlaid(plane, share, note),
            photometric_interpretation="RGB",
            bits_allocated=8,
            coordinate_system="PATIENT",
            series_instance_uid=series,
            series_number=HEAT_SERIES,
            sop_instance_uid=hd.UID(),
            instance_number=index + 1,
            manufacturer=MAKER,
            pixel_spacing=(spacing, spacing),  # type: ignore[arg-type] # written as they are
            patient_orientation=_letters(study.input.view),
            transfer_syntax_uid=ExplicitVRLittleEndian,
        )
        _describe_series(picture, "heat map")
        picture.BurnedInAnnotation = "NO"  # the class is drawn in, nothing of the patient
        pictures.append(picture)
    return pictures


def _letters(view: str) -> tuple[str, str]:
    """PatientOrientation of a view: where columns go to the right, and rows downwards."""
    _, row, column = VIEWS[view]
    return _letter(column), _letter(row)


def _letter(direction: NDArray[np.float64]) -> str:
    axis = int(np.abs(direction).argmax())
    return _ENDS[axis, int(np.sign(direction[axis]))]


def _map(new: NewStudy, study: Study, model: SavedModel, answer: Answer, slices: list[Dataset]) -> Dataset:
    """The maps as float32 planes, placed where the network's planes lie in the patient."""
    plan = new.chosen.plan
    centres = plan.examples[:, 1]
    spacing = float(np.linalg.norm(plan.row_step))
    directions = (plan.column_step / spacing, plan.row_step / spacing)
    between = float(abs(plan.plane_step @ np.cross(*directions))) or spacing
    found = ParametricMap(
        source_images=slices,
        pixel_array=answer.maps.astype(np.float32),
        series_instance_uid=hd.UID(),
        series_number=MAP_SERIES,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=f"{MAKER} {study.model.name}",
        software_versions=VERSION,
        device_serial_number=model.sha256[:16],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_scale()],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=0.5, window_width=1.0)],
        content_label="GRAD_CAM",
        content_description="Where the network found evidence; research only",
        pixel_measures=hd.PixelMeasuresSequence(
            pixel_spacing=(spacing, spacing), slice_thickness=between, spacing_between_slices=between
        ),
        plane_orientation=hd.PlaneOrientationSequence("PATIENT", [float(v) for axis in directions for v in axis]),
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", [round(float(v), 6) for v in origin])
            for origin in plan.origins[centres]
        ],
    )
    _describe_series(found, "Grad-CAM values")
    return found


def _scale() -> RealWorldValueMapping:
    """What the numbers of the map are."""
    return RealWorldValueMapping(
        lut_label="Grad-CAM",
        lut_explanation="Evidence for the class, share of the largest",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        slope=1.0,
        intercept=0.0,
        quantity_definition=_code("grad-cam", "Grad-CAM, share of the largest"),
    )


def _report(study: Study, model: SavedModel, answer: Answer, slices: list[Dataset]) -> Dataset:
    """Template 1500: one group of measurements, a value a class, and the class said."""
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(), name=MAKER, manufacturer_name=MAKER, model_name=f"{study.name} {study.digest[:12]}"
    )
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    group = _measurements(study, model, answer, slices)
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    found = hd.sr.Comprehensive3DSR(
        evidence=slices,
        content=content,
        series_instance_uid=hd.UID(),
        series_number=REPORT_SERIES,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    found.SeriesDescription = f"fedct result, {NOTE.lower()}"
    return found


def _measurements(
    study: Study, model: SavedModel, answer: Answer, slices: list[Dataset]
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """A value for each class, the class said, what said it, and the CT that it rests on."""
    what = "Share of slices" if answer.by_slice else "Probability"
    measurements = [
        hd.sr.Measurement(
            name=_code(f"value-{number}", f"{what}: {name}"), value=round(float(value), 4), unit=codes.UCUM.NoUnits
        )
        for number, (name, value) in enumerate(zip(answer.classes, answer.values, strict=True))
    ]
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), f"{study.name}: {NOTE.lower()}"),
        algorithm_id=hd.sr.AlgorithmIdentification(
            name=f"{MAKER} {study.model.name}",
            version=VERSION,
            parameters=[f"study {study.digest}", f"model {model.sha256}", f"{NOTE}: not for clinical use"],
            family=codes.DCM.ArtificialIntelligence,
        ),
        measurements=measurements,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(
                _code("likeliest", "Likeliest class, research only"),
                _code(f"class-{answer.said}", answer.classes[answer.said]),
            )
        ],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID) for image in slices
        ],
    )


def _code(value: str, meaning: str) -> hd.sr.CodedConcept:
    return hd.sr.CodedConcept(value, SCHEME, meaning[:_MEANING])


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
