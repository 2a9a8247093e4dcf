"""What to do about files that were left out, for those reasons where there is something to do."""

from __future__ import annotations

from client.ingest.records import Reason

ADVICE: dict[Reason, str] = {
    Reason.UNREADABLE: "Check owner and mode of the files, and the disk.",
    Reason.BAD_ARCHIVE: "Unpack the archive by hand, or export it again without a password.",
    Reason.TOO_LARGE: "Export the file again. If it is genuine, split it.",
    Reason.BURNED_IN_TEXT: "Leave it out. The text may name the patient.",
    Reason.BAD_HEADER: "Export the study again: these files are damaged, or were changed by another program.",
    Reason.NO_GEOMETRY: "Export the original slices. Screenshots and secondary images carry no positions.",
    Reason.NO_RESCALE: "Export the original slices, with RescaleSlope and RescaleIntercept kept.",
    Reason.NO_PATIENT_ID: "Have the anonymiser write a code into PatientID instead of emptying it.",
    Reason.UNSUPPORTED_SYNTAX: "Have the PACS export uncompressed, or in JPEG 2000 or JPEG-LS.",
    Reason.DUPLICATE_POSITION: "Several acquisitions share one series here; export them apart.",
    Reason.UNEVEN_SPACING: "Slices are missing. Export the whole series.",
    Reason.GANTRY_TILT: "A tilt that large is not trusted. Check whether the positions were changed on export.",
    Reason.NO_LABEL: "Add rows to the label table, if these patients belong to the study.",
    Reason.CONFLICTING_LABEL: "Correct the label table: one class for each id.",
    Reason.NO_STRUCTURE: "Check the structure's name in the study against the names in the contouring program.",
    Reason.PIXELS_UNREADABLE: "Export the study again: pixels are cut short or damaged.",
    Reason.IMPLAUSIBLE_HU: "Check the rescale values on export. Such a series must not be used for training.",
}
"""Reasons without advice are part of every export: localizers, reports, other reconstructions."""
