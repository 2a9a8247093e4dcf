"""What an ingest did, for the data manager: every file in exactly one row.

The JSON is stable: its keys are those of ``IngestReport.to_json``. No name, identifier, date, UID, path or
institution is in it; refused files are shown by reason and number, and ``IngestReport.skips``, which has
their paths, stays in memory.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from client.ingest.records import EXPLANATIONS, Reason, Skip
from common.errors import DataError
from common.study import Study

DETAILS = 10
"""Different details that are shown of a reason; the most frequent."""
LEVELS = {
    "patient": ("patient", ""),
    "study": ("study", "studies"),
    "series": ("series", "series"),
    "slice": ("slice", ""),
}


@dataclass(frozen=True)
class FileCounts:
    """Where the files of the tree and the members of its archives went.

    ``refused``: files by reason code; ``details``: of a code, what was found and in how many files, most
    frequent first; ``archives``: zip archives among the files; ``since_last_scan``: new, changed, removed
    and unchanged files. Raises ValueError unless ``total == accepted + sum(refused.values())``.
    """

    total: int
    accepted: int
    refused: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    archives: int = 0
    since_last_scan: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.total != self.accepted + sum(self.refused.values()):
            raise ValueError(f"{self.total} files are not {self.accepted} accepted and {sum(self.refused.values())}")


def account(
    skips: Iterable[Skip], used: frozenset[str], files: int, since_last_scan: Mapping[str, int] | None = None
) -> FileCounts:
    """Put each of ``files`` sources in one row: accepted if it is in ``used``, else by the reason of its skips.

    A source with several skips (frames of one file) counts for the most frequent of their reasons.
    """
    of_path: dict[str, Counter[tuple[Reason, str]]] = {}
    for skip in skips:
        if skip.path not in used:
            of_path.setdefault(skip.path, Counter())[(skip.reason, skip.detail)] += 1
    rows = Counter(found.most_common(1)[0][0] for found in of_path.values())
    refused: Counter[str] = Counter()
    details: dict[str, list[tuple[str, int]]] = {}
    for (reason, detail), count in sorted(rows.items(), key=lambda item: (-item[1], item[0])):
        refused[reason.value] += count
        if detail:
            details.setdefault(reason.value, []).append((detail, count))
    return FileCounts(
        total=files,
        accepted=len(used),
        refused=dict(sorted(refused.items())),
        details={code: tuple(found[:DETAILS]) for code, found in sorted(details.items())},
        archives=refused[Reason.ARCHIVE.value],
        since_last_scan=dict(since_last_scan or {}),
    )


@dataclass(frozen=True)
class ClassCount:
    """Examples of a class, patients with at least one, and those of them that are held out."""

    examples: int
    patients: int
    held_out: int


def class_counts(
    examples: NDArray[np.void], held_out: NDArray[np.bool_], classes: tuple[str, ...]
) -> dict[str, ClassCount]:
    """The balance of the cohort's table of examples, by class name. ``held_out``: bool [patients]."""
    counts = {}
    for index, name in enumerate(classes):
        mine = examples["patient"][examples["label"] == index]
        who = np.unique(mine)
        counts[name] = ClassCount(len(mine), len(who), int(held_out[who].sum()))
    return counts


@dataclass(frozen=True)
class IngestReport:
    """What became of the files, and what the cohort holds.

    ``study``: its ``name``, ``digest`` and ``cohort_digest``. ``corrected``: accepted series by what was put
    right in them; ``chosen_by``: by the rule that chose them. ``studies``: DICOM studies. ``held_out``: of
    ``patients``, those kept out of training. ``labels``: ``Labels.report``. ``distributions``:
    ``client.ingest.distributions``. ``seconds``: wall time. ``reused``: nothing was read, the cohort on disk
    fits. ``skips``: every source that is left out, with its path; in memory only. Nothing here may leave
    the site.
    """

    study: Mapping[str, str]
    files: FileCounts
    series: int
    corrected: Mapping[str, int]
    chosen_by: Mapping[str, int]
    studies: int
    patients: int
    held_out: int
    examples: int
    classes: Mapping[str, ClassCount]
    labels: Mapping[str, Any]
    distributions: Mapping[str, Any]
    encrypted: bool = False
    seconds: float = 0.0
    reused: bool = False
    skips: tuple[Skip, ...] = field(default=(), repr=False, compare=False)

    def to_json(self) -> str:
        """The report as JSON text, without ``skips``."""
        files = self.files
        content = {
            "format": 1,
            "study": dict(self.study),
            "files": {
                "total": files.total,
                "accepted": files.accepted,
                "refused": dict(files.refused),
                "details": {
                    code: [{"detail": detail, "files": count} for detail, count in found]
                    for code, found in files.details.items()
                },
                "archives": files.archives,
                "since_last_scan": dict(files.since_last_scan),
            },
            "series": {
                "accepted": self.series,
                "corrected": dict(self.corrected),
                "chosen_by": dict(self.chosen_by),
            },
            "studies": self.studies,
            "patients": {"accepted": self.patients, "held_out": self.held_out},
            "examples": self.examples,
            "classes": {name: vars(count) for name, count in self.classes.items()},
            "labels": dict(self.labels),
            "distributions": dict(self.distributions),
            "encrypted": self.encrypted,
            "reused": self.reused,
            "seconds": round(self.seconds, 1),
        }
        return json.dumps(content, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read back ``to_json``. Raises DataError if it is not of its shape."""
        try:
            content = json.loads(text)
            files = dict(content["files"])
            files["details"] = {
                code: tuple((str(one["detail"]), int(one["files"])) for one in found)
                for code, found in files["details"].items()
            }
            series, patients = content["series"], content["patients"]
            return cls(
                study=content["study"],
                files=FileCounts(**files),
                series=series["accepted"],
                corrected=series["corrected"],
                chosen_by=series["chosen_by"],
                studies=content["studies"],
                patients=patients["accepted"],
                held_out=patients["held_out"],
                examples=content["examples"],
                classes={name: ClassCount(**count) for name, count in content["classes"].items()},
                labels=content["labels"],
                distributions=content["distributions"],
                encrypted=content["encrypted"],
                seconds=content["seconds"],
                reused=content["reused"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"an ingest report is damaged ({error})", "Run 'fedct-site ingest' again") from None

    def lines(self) -> list[str]:
        """Short text for a terminal."""
        verb = "unchanged, reused" if self.reused else f"ingested in {self.seconds:.1f} s"
        classes = ", ".join(f"{name} {count.examples}" for name, count in self.classes.items())
        sealed = ", encrypted" if self.encrypted else ""
        patients = f"{count(self.patients, 'patient')} ({self.held_out} held out)"
        series = f"{count(self.studies, 'study', 'studies')}, {self.series} series"
        return [
            f"cohort of study '{self.study['name']}' ({self.study['cohort_digest'][:16]}{sealed}): {verb}",
            f"{patients}, {series}, {count(self.examples, 'example')}: {classes}",
            f"{self.files.accepted} of {count(self.files.total, 'file')} used",
            *self._refused_lines(),
            *(f"series corrected: {kind}: {number}" for kind, number in self.corrected.items()),
            *label_problems(self.labels),
        ]

    def _refused_lines(self) -> list[str]:
        lines = []
        for code, number in sorted(self.files.refused.items(), key=lambda item: (-item[1], item[0])):
            details = self.files.details.get(code, ())
            shown = "; ".join(f"{detail}: {files}" for detail, files in details[:3])
            lines.append(f"  {number} left out: {code} ({explain(code)}){f' - {shown}' if shown else ''}")
        return lines


def study_identity(study: Study) -> dict[str, str]:
    """The report's ``study``."""
    return {"name": study.name, "digest": study.digest, "cohort_digest": study.cohort_digest}


def explain(code: str) -> str:
    """A reason code in words; a code of another version stands for itself."""
    return EXPLANATIONS[Reason(code)] if code in set(Reason) else code


def count(number: int, one: str, many: str = "") -> str:
    """``1 patient``, ``2 patients``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def label_problems(labels: Mapping[str, Any]) -> list[str]:
    """What is wrong with the labels, a sentence each; empty when all is well."""
    one, many = LEVELS.get(labels.get("level", ""), ("id", ""))
    lines = []
    if (rows := labels.get("rows_without_data", {})).get("count"):
        lines.append(f"{count(rows['count'], 'row')} of the label table without data here{_at(rows['lines'])}")
    if number := labels.get("data_without_row"):
        lines.append(f"{count(number, one, many)} without a label")
    if (found := labels.get("conflicting", {})).get("count"):
        lines.append(f"{count(found['count'], one, many)} with two different classes, left out{_at(found['lines'])}")
    if (unknown := labels.get("unknown_classes", {})).get("rows"):
        values = ", ".join(f"'{value['value']}' ({value['rows']})" for value in unknown["values"])
        lines.append(
            f"{count(unknown['rows'], 'row')} with a class that the study does not have, left out"
            + (f": {values}" if values else "")
        )
    if number := labels.get("repeated_rows"):
        lines.append(f"{count(number, 'row')} of the label table repeated, counted once")
    if number := labels.get("outlines_between_slices"):
        lines.append(f"{count(number, 'outline')} of structures on no slice")
    return lines


def _at(lines: list[int]) -> str:
    return f" (lines {', '.join(map(str, lines))})" if lines else ""
