"""What an ingest did, for the data manager."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from client.ingest.records import EXPLANATIONS, Reason, Skip

_EXAMPLES = 3


@dataclass(frozen=True)
class IngestReport:
    """Every file is either accepted or skipped: ``files_total == files_accepted + sum(skipped.values())``.

    ``skipped``: files by reason code. ``skip_examples``: up to three paths a reason, relative to the
    DICOM folder; kept in memory only, and empty when the cohort was reused. ``class_counts``: examples
    by class. ``patients_held_out``: of ``patients``, those kept out of training.
    ``rows_without_data``: rows of the label table that no series of the cohort uses. ``seconds``: wall
    time of this call. Nothing here may leave the site.
    """

    files_total: int
    files_accepted: int
    skipped: dict[str, int]
    series: int
    patients: int
    patients_held_out: int
    examples: int
    class_counts: dict[str, int]
    rows_without_data: int
    reused: bool = False
    seconds: float = 0.0
    skip_examples: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Short text for a terminal."""
        verb = "unchanged, reused" if self.reused else "ingested"
        classes = ", ".join(f"{name} {count}" for name, count in self.class_counts.items())
        patients = f"{self.patients} patients ({self.patients_held_out} held out)"
        out = [
            f"cohort {verb} in {self.seconds:.1f} s",
            f"{patients}, {self.series} series, {self.examples} examples: {classes}",
            f"{self.files_accepted} of {self.files_total} files used",
        ]
        for code, count in sorted(self.skipped.items(), key=lambda item: (-item[1], item[0])):
            shown = f"; for example {_printable(self.skip_examples[code][0])}" if code in self.skip_examples else ""
            out.append(f"  {count} left out: {code} ({EXPLANATIONS[Reason(code)]}){shown}")
        if self.rows_without_data:
            out.append(f"{self.rows_without_data} rows of the label table have no data in the cohort")
        return out

    def counts(self) -> dict[str, Any]:
        """What the cohort's manifest keeps of the report: numbers and reason codes only."""
        names = ("files_total", "files_accepted", "series", "patients", "patients_held_out", "examples")
        plain: dict[str, Any] = {name: getattr(self, name) for name in names}
        return plain | {
            "skipped": dict(self.skipped),
            "class_counts": dict(self.class_counts),
            "rows_without_data": self.rows_without_data,
        }


def _printable(path: str) -> str:
    """A file name that can't upset a terminal: names may hold control characters and bytes of any encoding."""
    return "".join(character if character.isprintable() else "?" for character in path)


def count_skips(skips: list[Skip]) -> tuple[dict[str, int], dict[str, tuple[str, ...]]]:
    """Files by reason code, and the first paths of each."""
    paths: dict[str, list[str]] = {}
    for skip in skips:
        paths.setdefault(skip.reason.value, []).append(skip.path)
    counts = {code: len(found) for code, found in sorted(paths.items())}
    return counts, {code: tuple(sorted(found)[:_EXAMPLES]) for code, found in paths.items()}
